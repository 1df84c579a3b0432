"use strict";
const $ = (id) => document.getElementById(id);
const state = { image: null, report: null, zoom: 1, fitted: 1, chosen: -1, drawn: null, redrawing: false, run: 0 };

// The key stays in this tab.
$("key").value = sessionStorage.getItem("key") || "";
$("key").addEventListener("change", () => sessionStorage.setItem("key", $("key").value));

function headers(more = {}) {
  const key = $("key").value;
  return key ? { ...more, Authorization: `Bearer ${key}` } : more;
}

function tell(text, failed = false) {
  $("status").textContent = text;
  $("status").classList.toggle("failed", failed);
}

async function problem(response) {
  let detail = response.statusText;
  try { detail = (await response.json()).detail || detail; } catch { /* not JSON: the status says it */ }
  if (response.status === 401) {
    $("key-field").hidden = false;
    $("key").focus();
    detail = "This server asks for an API key: type it above, then choose the image again.";
  }
  return new Error(detail);
}

// --- the image

async function open(file) {
  const run = ++state.run;
  clear();
  tell("Reading the image…");
  try {
    state.image = await picture(file);
    if (run !== state.run) return;
    show();
    await write(file, run);
  } catch (error) {
    if (run === state.run) tell(error.message, true);
  }
}

async function picture(file) {
  const mark = new TextDecoder().decode(await file.slice(128, 132).arrayBuffer());
  if (mark !== "DICM") {
    try { return await GreyImage.read(file, false, 32767, 65535); }
    catch { throw new Error("This file is not an image that can be shown: choose a PNG, JPEG or DICOM file."); }
  }
  const body = new FormData();
  body.append("image", file, "image");
  const response = await fetch("/v1/preview", { method: "POST", body, headers: headers() });
  if (!response.ok) throw await problem(response);
  const centre = Number(response.headers.get("X-Window-Center")), span = Number(response.headers.get("X-Window-Width"));
  return GreyImage.read(await response.blob(), true, centre, span);
}

function show() {
  $("drop").hidden = true; $("stage").hidden = false; $("tools").hidden = false;
  resetWindow();
  fit();
}

function paint() { state.image.draw($("image"), Number($("level").value), Number($("width").value)); }
function resetWindow() { $("level").value = state.image.first.centre; $("width").value = state.image.first.span; paint(); }

function fit() {
  const stage = $("stage");
  state.fitted = Math.min((stage.clientWidth - 2) / state.image.width, (stage.clientHeight - 2) / state.image.height);
  zoomTo(1);
}

function zoomTo(zoom) {
  state.zoom = Math.min(16, Math.max(0.25, zoom));
  $("sheet").style.width = `${state.image.width * state.fitted * state.zoom}px`;
  $("sheet").style.height = `${state.image.height * state.fitted * state.zoom}px`;
  $("zoom").textContent = `${Math.round(100 * state.zoom)} %`;
}

// --- the report

async function write(file, run) {
  tell("Writing the report…");
  const body = new FormData();
  body.append("image", file, "image");
  body.append("stream", "true");
  const response = await fetch("/v1/reports", { method: "POST", body, headers: headers() });
  if (!response.ok) throw await problem(response);
  for await (const [kind, data] of events(response.body)) {
    if (run !== state.run) return;
    if (kind === "text") $("stream").textContent += JSON.parse(data);
    if (kind === "report") finish(JSON.parse(data));
    if (kind === "problem") throw new Error(JSON.parse(data).detail);
  }
  if (!state.report && run === state.run) throw new Error("The server ended before the report did: choose the image again.");
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    let end;
    while ((end = held.indexOf("\n\n")) >= 0) {
      const [kind, data] = held.slice(0, end).split("\ndata: ");
      held = held.slice(end + 2);
      yield [kind.replace("event: ", ""), data];
    }
  }
}

function finish(report) {
  state.report = report;
  $("stream").textContent = "";
  tell(`${report.sentences.length} sentences in ${(report.timings.total_ms / 1000).toFixed(1)} s` +
    (report.truncated ? "; cut off at the token limit" : ""));
  const svg = $("boxes");
  svg.setAttribute("viewBox", `0 0 ${report.image.width} ${report.image.height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  report.sentences.forEach((sentence, number) => {
    $("sentences").append(line(sentence, number));
    (sentence.boxes || []).forEach((box) => svg.append(rectangle(box, String(number))));
  });
  $("versions").textContent = `${report.model.name}: backbone ${report.model.backbone_version}, ` +
    `adapter ${report.model.adapter_version}. ${report.notice}`;
  $("copy").disabled = $("download").disabled = false;
}

function line(sentence, number) {
  const item = document.createElement("li");
  item.tabIndex = 0;
  const words = Object.assign(document.createElement("p"), { className: "words", textContent: sentence.text });
  const what = Object.assign(document.createElement("p"), { className: "what", textContent: place(sentence) });
  const say = Object.assign(document.createElement("button"), { className: "say", type: "button", textContent: "Verdict" });
  say.setAttribute("aria-label", `Give a verdict on: ${sentence.text}`);
  say.addEventListener("click", () => judge(number));
  item.append(words, what, say);
  for (const kind of ["mouseenter", "focusin"]) item.addEventListener(kind, () => highlight(number));
  for (const kind of ["mouseleave", "focusout"]) item.addEventListener(kind, () => highlight(state.chosen));
  return item;
}

function place(sentence) {
  const where = sentence.malformed ? "its place could not be read"
    : !sentence.boxes ? "" : sentence.boxes.length ? `${sentence.boxes.length} box` + (sentence.boxes.length > 1 ? "es" : "") : "nothing to show";
  return [sentence.reasoning, where].filter(Boolean).join(" · ");
}

function rectangle([x1, y1, x2, y2], number) {
  const box = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  for (const [name, value] of Object.entries({ x: x1, y: y1, width: x2 - x1, height: y2 - y1 })) box.setAttribute(name, value);
  box.dataset.number = number;
  return box;
}

function highlight(number) {
  document.querySelectorAll("#sentences li").forEach((item, index) => item.classList.toggle("shown", index === number));
  document.querySelectorAll("#boxes rect").forEach((box) => box.classList.toggle("shown", box.dataset.number === String(number)));
}

function clear() {
  Object.assign(state, { image: null, report: null, chosen: -1, drawn: null, redrawing: false });
  $("sentences").replaceChildren(); $("boxes").replaceChildren();
  $("stream").textContent = $("versions").textContent = "";
  $("verdict").hidden = true;
  $("copy").disabled = $("download").disabled = true;
}

// --- the reader's verdict

function judge(number) {
  state.chosen = number;
  forget();
  $("verdict").reset();
  $("about").textContent = state.report.sentences[number].text;
  $("corrected").value = state.report.sentences[number].text;
  $("verdict").hidden = false;
  $("verdict").querySelector("input").focus();
  highlight(number);
}

function forget() {
  state.drawn = null; redrawing(false);
  document.querySelectorAll("#boxes rect.drawn").forEach((box) => box.remove());
}

function redrawing(on) {
  const boxes = $("boxes");
  state.redrawing = on;
  $("redraw").setAttribute("aria-pressed", String(on));
  boxes.classList.toggle("drawing", on);
  boxes.setAttribute("aria-hidden", String(!on));
  if (!on) { boxes.removeAttribute("tabindex"); return; }
  boxes.setAttribute("tabindex", "0");
  boxes.focus();
  tell("Draw the box; or move it with the arrow keys, size it with Shift and them, and end with Enter.");
}

function draw(box) {
  let drawn = document.querySelector("#boxes rect.drawn");
  if (!drawn) {
    drawn = rectangle(box, "drawn");
    drawn.classList.add("drawn");
    $("boxes").append(drawn);
  }
  const [x1, y1, x2, y2] = state.drawn = box;
  for (const [name, value] of Object.entries({ x: x1, y: y1, width: x2 - x1, height: y2 - y1 })) drawn.setAttribute(name, value);
}

function where(event) {
  const area = $("boxes").getBoundingClientRect(), image = state.report.image;
  const clamp = (value, most) => Math.round(Math.min(most, Math.max(0, value)) * 100) / 100;
  return [clamp((event.clientX - area.left) / area.width * image.width, image.width),
    clamp((event.clientY - area.top) / area.height * image.height, image.height)];
}

$("boxes").addEventListener("pointerdown", (event) => {
  if (!state.redrawing) return;
  const [x, y] = where(event);
  $("boxes").setPointerCapture(event.pointerId);
  const move = (moved) => {
    const [a, b] = where(moved);
    draw([Math.min(x, a), Math.min(y, b), Math.max(x, a), Math.max(y, b)]);
  };
  const end = (ended) => {
    $("boxes").removeEventListener("pointermove", move);
    for (const kind of ["pointerup", "pointercancel"]) $("boxes").removeEventListener(kind, end);
    if (ended.type === "pointerup") redrawing(false);
  };
  $("boxes").addEventListener("pointermove", move);
  for (const kind of ["pointerup", "pointercancel"]) $("boxes").addEventListener(kind, end);
});

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
$("boxes").addEventListener("keydown", (event) => {
  if (!state.redrawing) return;
  const { width, height } = state.report.image, arrow = ARROWS[event.key];
  if (event.key === "Enter" || event.key === "Escape") { redrawing(false); $("redraw").focus(); }
  else if (!arrow) return;
  else {
    const served = (state.report.sentences[state.chosen].boxes || [])[0];
    const [x1, y1, x2, y2] = state.drawn || served || [0.4 * width, 0.4 * height, 0.6 * width, 0.6 * height];
    const across = arrow[0] * width / 50, down = arrow[1] * height / 50;
    const box = event.shiftKey ? [x1, y1, x2 + across, y2 + down] : [x1 + across, y1 + down, x2 + across, y2 + down];
    if (0 <= box[0] && box[0] < box[2] && box[2] <= width && 0 <= box[1] && box[1] < box[3] && box[3] <= height) draw(box);
  }
  event.preventDefault();
});

$("redraw").addEventListener("click", () => redrawing(!state.redrawing));
$("cancel").addEventListener("click", () => { forget(); $("verdict").hidden = true; state.chosen = -1; highlight(-1); });
$("verdict").addEventListener("submit", async (event) => {
  event.preventDefault();
  const { report, chosen, drawn } = state, sentence = report.sentences[chosen];
  const corrected = $("corrected").value.trim();
  const said = {
    report: report.id, sentence: chosen, text: sentence.text, image: report.image.digest,
    model: report.model, verdict: new FormData($("verdict")).get("verdict"), width: report.image.width, height: report.image.height,
  };
  if (corrected && corrected !== sentence.text) said.corrected = corrected;
  if (drawn && drawn[2] > drawn[0] && drawn[3] > drawn[1]) said.boxes = [drawn];
  else if (said.verdict === "right" && sentence.boxes) said.boxes = sentence.boxes;
  const response = await fetch("/v1/feedback", {
    method: "POST", body: JSON.stringify(said), headers: headers({ "Content-Type": "application/json" }),
  });
  if (!response.ok) { tell((await problem(response)).message, true); return; }
  tell("Thank you: the verdict is kept.");
  $("cancel").click();
});

// --- controls

$("drop").addEventListener("click", () => $("file").click());
$("drop").addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); $("file").click(); } });
$("other").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => { if ($("file").files[0]) open($("file").files[0]); $("file").value = ""; });
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files[0]) open(event.dataTransfer.files[0]);
  });
}
$("zoom-in").addEventListener("click", () => zoomTo(state.zoom * 1.25));
$("zoom-out").addEventListener("click", () => zoomTo(state.zoom / 1.25));
$("fit").addEventListener("click", fit);
$("reset").addEventListener("click", resetWindow);
for (const id of ["level", "width"]) $(id).addEventListener("input", paint);
$("stage").addEventListener("wheel", (event) => {
  if (!event.ctrlKey) return;
  event.preventDefault();
  zoomTo(state.zoom * (event.deltaY < 0 ? 1.1 : 1 / 1.1));
}, { passive: false });
window.addEventListener("resize", () => { if (state.image) fit(); });
$("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(state.report.report); // there is no clipboard where a page came without TLS
    tell("Copied.");
  } catch { tell("This browser lets a page copy over https only: use Download.", true); }
});
$("download").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(state.report, null, 2)], { type: "application/json" }));
  link.download = `report-${state.report.id}.json`;
  link.click();
  URL.revokeObjectURL(link.href);
});
