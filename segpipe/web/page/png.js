// PNGs as `segpipe` reads and writes them, grey or RGB: those that a canvas saves have a fourth channel.

const COLOUR_TYPES = {1: 0, 3: 2};  // by channels
const CRC_TABLE = Uint32Array.from({length: 256}, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  return crc;
});

// samples: a Uint8Array or Uint16Array, row by row
async function pngOf(samples, width, height) {
  const wide = samples.BYTES_PER_ELEMENT === 2, across = samples.length / height, line = across * samples.BYTES_PER_ELEMENT;
  const rows = new Uint8Array(height * (line + 1)), view = new DataView(rows.buffer);  // each begins with its filter, 0
  for (let y = 0; y < height; y++) {
    const row = samples.subarray(y * across, (y + 1) * across), at = y * (line + 1) + 1;
    if (wide) row.forEach((sample, x) => view.setUint16(at + 2 * x, sample)); else rows.set(row, at);
  }
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint8(8, wide ? 16 : 8);
  header.setUint8(9, COLOUR_TYPES[across / width]);
  const zlib = new Response(new Blob([rows]).stream().pipeThrough(new CompressionStream("deflate")));
  const parts = [["IHDR", new Uint8Array(header.buffer)], ["IDAT", new Uint8Array(await zlib.arrayBuffer())], ["IEND", new Uint8Array(0)]];
  const signature = Uint8Array.of(137, 80, 78, 71, 13, 10, 26, 10);
  return new Blob([signature, ...parts.map(([name, data]) => chunk(name, data))], {type: "image/png"});
}

function chunk(name, data) {
  const bytes = new Uint8Array(12 + data.length), view = new DataView(bytes.buffer);
  view.setUint32(0, data.length);
  bytes.set(new TextEncoder().encode(name), 4);
  bytes.set(data, 8);
  view.setUint32(8 + data.length, crc32(bytes.subarray(4, 8 + data.length)));
  return bytes;
}

function crc32(bytes) {
  let crc = -1;
  for (const byte of bytes) crc = (crc >>> 8) ^ CRC_TABLE[(crc ^ byte) & 255];
  return (crc ^ -1) >>> 0;
}
