"use strict";
// The OpenAPI description as a page, from this server alone: hospitals' networks reach no other.

function element(name, text, ...children) {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

function kind(schema) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  const some = schema.anyOf || schema.oneOf;
  if (some) return some.map(kind).join(" | ");
  return schema.type === "array" ? `list of ${kind(schema.items || schema.prefixItems?.[0] || {})}` : schema.format || schema.type || "any";
}

function resolved(schema, all) { return schema?.$ref ? all.components.schemas[schema.$ref.split("/").pop()] : schema || {}; }

function fields(schema) {
  const rows = Object.entries(schema.properties || {}).map(([name, field]) => {
    const needed = (schema.required || []).includes(name) ? "needed" : field.default === undefined ? "" : JSON.stringify(field.default);
    return element("tr", "", element("th", name), element("td", kind(field)), element("td", needed), element("td", field.description || ""));
  });
  const head = element("tr", "", ...["field", "kind", "default", "meaning"].map((word) => element("th", word)));
  return element("table", "", element("thead", "", head), element("tbody", "", ...rows));
}

function content(held, all) {
  return Object.entries(held || {}).flatMap(([media, { schema }]) => {
    const whole = resolved(schema, all), shown = [element("h4", media)];
    if (whole.properties) shown.push(fields(whole));
    for (const example of whole.examples || []) shown.push(element("pre", JSON.stringify(example, null, 1)));
    return shown;
  });
}

function operation(path, method, told, all) {
  const made = element("details", "", element("summary", `${method.toUpperCase()} ${path}`), element("p", told.description || told.summary));
  made.id = `${method}${path}`;
  if (told.requestBody) made.append(element("h3", "Request"), ...content(told.requestBody.content, all));
  for (const [status, answer] of Object.entries(told.responses)) {
    made.append(element("h3", `${status}: ${answer.description}`));
    if (status < "300") made.append(...content(answer.content, all));
  }
  return made;
}

(async () => {
  const main = document.getElementById("operations");
  try {
    const all = await (await fetch("/openapi.json")).json();
    main.replaceChildren(...Object.entries(all.paths).flatMap(([path, methods]) =>
      Object.entries(methods).map(([method, told]) => operation(path, method, told, all))));
    document.getElementById("post/v1/reports").open = true;
  } catch { main.replaceChildren(element("p", "/openapi.json cannot be read: is the server still there?")); }
})();
