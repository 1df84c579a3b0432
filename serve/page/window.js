"use strict";
// Grey values of 16 bits and the window through which they are seen. The server sends a DICOM image as a PNG whose red
// channel is the high byte and whose green channel is the low one; any other image is grey already.

class GreyImage {
  constructor(width, height, values, centre, span) {
    this.width = width; this.height = height; this.values = values;
    this.first = { centre, span };
  }

  static async read(blob, packed, centre, span) {
    const bitmap = await createImageBitmap(blob);
    const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    const pixels = context.getImageData(0, 0, bitmap.width, bitmap.height).data;
    const values = new Uint16Array(bitmap.width * bitmap.height);
    for (let i = 0, p = 0; i < values.length; i++, p += 4) {
      values[i] = packed ? pixels[p] * 256 + pixels[p + 1]
        : 257 * (0.299 * pixels[p] + 0.587 * pixels[p + 1] + 0.114 * pixels[p + 2]);
    }
    return new GreyImage(bitmap.width, bitmap.height, values, centre, span);
  }

  draw(canvas, centre, span) {
    if (canvas.width !== this.width) canvas.width = this.width;
    if (canvas.height !== this.height) canvas.height = this.height;
    const context = canvas.getContext("2d");
    const out = context.createImageData(this.width, this.height);
    const words = new Uint32Array(out.data.buffer);
    const low = centre - span / 2, scale = 255 / Math.max(1, span);
    for (let i = 0; i < words.length; i++) {
      const grey = Math.min(255, Math.max(0, (this.values[i] - low) * scale)) | 0;
      words[i] = 0xff000000 | (grey << 16) | (grey << 8) | grey;
    }
    context.putImageData(out, 0, 0);
  }
}
