// What turns pixels into a mask: the graph inside this page, or the server that the page came from.

async function unpacked(base64) {
  const text = atob(base64), packed = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) packed[i] = text.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function hasGpu() {
  try { return Boolean(await navigator.gpu?.requestAdapter()); } catch { return false; }
}

// device: "wasm" or "webgpu"; parts: code and binary of the runtime for it, and the graph, packed
async function openHere(device, parts) {
  const code = new Blob([await unpacked(parts.code)], {type: "text/javascript"});
  const ort = await import(URL.createObjectURL(code));
  ort.env.wasm.wasmBinary = (await unpacked(parts.binary)).buffer;
  ort.env.wasm.numThreads = 1;  // more need headers that a file has not
  ort.env.logLevel = "error";
  const session = await ort.InferenceSession.create(await unpacked(parts.graph), {executionProviders: [device]});
  const segment = async (pixels) => {
    const {width, height} = pixels, started = performance.now();
    const frame = new ort.Tensor("uint8", rgbOf(pixels), [1, height, width, 3]);
    const found = await session.run({frame});
    return {mask: found.mask.data, confidence: found.confidence?.data, ms: performance.now() - started};
  };
  return Object.assign(segment, {hasConfidence: session.outputNames.includes("confidence")});
}

// What the server refuses is thrown in its own words; `askToken` is called where it wants a token.
async function asked(url, request, token, askToken) {
  const headers = {...request.headers, ...(token && {authorization: `Bearer ${token}`})};
  const answer = await fetch(url, {...request, headers});
  if (answer.status === 401) askToken();
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).detail ?? `the server answered ${answer.status}`);
  return answer;
}

// base: the page's address. `changed` is called with classes and colours, again when another model has taken over.
async function openServer(base, token, askToken, changed) {
  let artifact = "";
  const tell = async () => {
    const model = await (await asked(new URL("model", base), {}, token, askToken)).json();
    if (!model.contract) throw new Error("the server is still opening its model");
    artifact = model.artifact_sha256;
    changed(model.contract.classes, model.palette);
  };
  await tell();
  return async (pixels) => {
    const body = await pngOf(rgbOf(pixels), pixels.width, pixels.height), started = performance.now();
    const headers = {accept: "application/octet-stream", "content-type": "image/png"};
    const answer = await asked(new URL("segment", base), {method: "POST", headers, body}, token, askToken);
    if (answer.headers.get("x-segpipe-artifact") !== artifact) await tell();
    const bytes = await answer.arrayBuffer(), wide = bytes.byteLength > pixels.width * pixels.height;
    return {mask: wide ? new Uint16Array(bytes) : new Uint8Array(bytes), ms: performance.now() - started};
  };
}

function rgbOf({data, width, height}) {
  const rgb = new Uint8Array(3 * width * height);
  for (let from = 0, to = 0; from < data.length; from += 4) {
    rgb[to++] = data[from]; rgb[to++] = data[from + 1]; rgb[to++] = data[from + 2];
  }
  return rgb;
}
