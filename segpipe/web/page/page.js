// The page: what is opened and shown. One picture at a time; all that takes long is the worker's.

const $ = (id) => document.getElementById(id);
const boot = JSON.parse($("boot").textContent);
const state = {open: false, picture: null, busy: false, painting: false, stale: false, kept: null, pointed: null, at: {x: 0, y: 0}, stream: null, said: 0, turn: 0, url: ""};

const say = (text) => { $("status").textContent = text; };

// --- the worker ------------------------------------------------------------------------------------------------------

const script = new Blob([JSON.parse($("worker").textContent)], {type: "text/javascript"});
const worker = new Worker(URL.createObjectURL(script)), waiting = new Map();
let turns = 0, broken = null;

// What the worker answers to a task; `moved` is given away.
function ask(task, given = {}, moved = []) {
  return new Promise((resolve, reject) => {
    if (broken) reject(broken);
    waiting.set(++turns, {resolve, reject});
    worker.postMessage({turn: turns, task, given}, moved);
  });
}

worker.onmessage = ({data: {event, turn, answer, error, names, palette}}) => {
  if (event === "classes") return setClasses(names, palette);
  if (event === "token") return askToken();
  const {resolve, reject} = waiting.get(turn);
  waiting.delete(turn);
  return error === undefined ? resolve(answer) : reject(new Error(error));
};
worker.onerror = (event) => {
  broken = new Error(event.message || "its worker does not start");
  for (const {reject} of waiting.values()) reject(broken);
};

// --- a picture -------------------------------------------------------------------------------------------------------

// Gives the bitmap away.
async function segment(bitmap, width, height, name) {
  if (state.busy || !state.open) return;
  state.busy = true;
  try {
    const scale = Math.min(1, Math.sqrt(boot.most_pixels / (width * height)));
    const [w, h] = [width, height].map((side) => Math.max(1, Math.floor(side * scale)));
    if (!state.url && !state.stream) say(`Segmenting ${name}.`);
    state.picture = {...await ask("segment", {bitmap, width: w, height: h}, [bitmap]), name};
    await show();
    const live = state.url || state.stream;
    if (live && $("status").textContent.startsWith(`${name}: `) && performance.now() - state.said < 2000) return;
    state.said = performance.now();  // who listens to the page hears of a video now and then, not of every frame
    const reduced = scale < 1 ? `, reduced from ${width} x ${height}` : "";
    say(`${name}: ${w} x ${h} pixels${reduced}, ${state.picture.ms.toFixed(1)} ms ${boot.server ? "from here to the server and back" : `on the ${onDevice()}`}.`);
  } catch (error) {
    stop();
    say(`${name} could not be segmented: ${error.message}`);
  } finally {
    state.busy = false;
  }
}

// A quarter of the time is for the rest of the computer.
const rest = () => new Promise((done) => { setTimeout(done, Math.max(20, (state.picture?.ms ?? 0) / 4)); });
const nextFrame = () => new Promise((done) => { setTimeout(done, 30); });
const onDevice = () => ($("device").value === "webgpu" && !$("device-row").hidden ? "GPU" : "CPU");

function look() {
  return {opacity: $("opacity").value / 100, confidence: $("confidence").checked, only: state.pointed ?? state.kept};
}

// What is asked for while the worker paints is painted once, when it is done.
async function show() {
  if (!state.picture) return;
  state.stale = true;
  if (state.painting) return;
  state.painting = true;
  try {
    while (state.stale) {
      state.stale = false;
      shown(await ask("paint", {look: look(), palette: boot.palette}));
    }
  } finally {
    state.painting = false;
  }
}

function shown(image) {
  const {picture} = state, view = $("view"), shares = picture.shares.slice(0, boot.classes.length);  // another model may have come
  view.hidden = false;
  $("hint").hidden = true;
  Object.assign(view, {width: image.width, height: image.height});
  view.getContext("bitmaprenderer").transferFromImageBitmap(image);
  shares.forEach((share, label) => { $("legend").children[label].querySelector(".share").textContent = percent(share); });
  const most = shares.map((share, label) => [share, boot.classes[label]]).filter(([share]) => share > 0).sort((a, b) => b[0] - a[0]);
  $("view").setAttribute("aria-label", `${picture.name}: ${most.slice(0, 5).map(([share, name]) => `${name} ${percent(share)}`).join(", ")}`);
  for (const id of ["save-mask", "save-overlay"]) $(id).disabled = false;
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;

function read(x, y) {
  if (!state.picture) return;
  const {width, height, mask, confidence} = state.picture;
  state.at = {x: Math.min(width - 1, Math.max(0, x)), y: Math.min(height - 1, Math.max(0, y))};
  const p = state.at.y * width + state.at.x, sure = confidence ? `, confidence ${percent(confidence[p])}` : "";
  $("pixel").textContent = `Row ${state.at.y}, column ${state.at.x}: ${boot.classes[mask[p]] ?? "no class"}${sure}`;
}

// --- where pictures come from ----------------------------------------------------------------------------------------

async function take(file) {
  stop();
  while (state.busy) await nextFrame();  // a frame of the last video
  if (file.type.startsWith("video/")) return play({src: (state.url = URL.createObjectURL(file))}, file.name);
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, {colorSpaceConversion: "none", premultiplyAlpha: "none"});
  } catch {
    return say(`${file.name} is no image or video that this browser can read.`);
  }
  return segment(bitmap, bitmap.width, bitmap.height, file.name);
}

async function webcam() {
  stop();
  if (!navigator.mediaDevices) return say("No webcam: browsers give it to files and to pages from https or this machine only.");
  try {
    state.stream = await navigator.mediaDevices.getUserMedia({video: {width: {ideal: 640}}});
  } catch (error) {
    return say(`No webcam: ${error.message}`);
  }
  return play({srcObject: state.stream}, "Webcam");
}

async function play(source, name) {
  const video = Object.assign($("video"), source);
  try { await video.play(); } catch { return say(`${name} is no video that this browser can play.`); }
  const turn = ++state.turn;
  $("stop").disabled = false;
  while (state.turn === turn) {
    if (video.videoWidth) await segment(await createImageBitmap(video), video.videoWidth, video.videoHeight, name);
    await rest();
  }
  return undefined;
}

function stop() {
  state.turn++;
  $("stop").disabled = true;
  for (const track of state.stream?.getTracks() ?? []) track.stop();
  state.stream = null;
  const video = $("video");
  video.pause();
  video.srcObject = null;
  video.removeAttribute("src");
  if (state.url) URL.revokeObjectURL(state.url);
  state.url = "";
}

// --- saving ----------------------------------------------------------------------------------------------------------

function save(blob, ending) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${state.picture.name.replace(/\.[^.]*$/, "")}.${ending}.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

async function saveMask() {
  save(await ask("maskPng"), "mask");
}

// --- wiring ----------------------------------------------------------------------------------------------------------

function setClasses(classes, palette) {
  Object.assign(boot, {classes, palette});
  Object.assign(state, {kept: null, pointed: null});
  $("legend").replaceChildren();
  boot.classes.forEach((name, label) => {
    const item = document.createElement("li"), button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    for (const part of ["swatch", "name", "share"]) {
      button.append(Object.assign(document.createElement("span"), {className: part, textContent: part === "name" ? name : ""}));
    }
    button.firstChild.style.background = `rgb(${boot.palette[label].join(" ")})`;
    const point = (to) => () => { state.pointed = to; show(); };
    button.onpointerenter = button.onfocus = point(label);
    button.onpointerleave = button.onblur = point(null);
    button.onclick = () => {
      state.kept = state.kept === label ? null : label;
      [...$("legend").children].forEach((other, at) => other.firstChild.setAttribute("aria-pressed", String(at === state.kept)));
      show();
    };
    item.append(button);
    $("legend").append(item);
  });
}

function addReading() {
  const view = $("view"), steps = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
  view.onpointermove = (event) => {
    const scale = Math.min(view.clientWidth / view.width, view.clientHeight / view.height);
    const [left, top] = [(view.clientWidth - view.width * scale) / 2, (view.clientHeight - view.height * scale) / 2];
    read(Math.floor((event.offsetX - left) / scale), Math.floor((event.offsetY - top) / scale));
  };
  view.onkeydown = (event) => {
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    const far = event.shiftKey ? 1 : Math.ceil(view.width / 40);
    read(state.at.x + step[0] * far, state.at.y + step[1] * far);
  };
}

function addDropping() {
  document.ondragover = (event) => { event.preventDefault(); $("drop").classList.add("over"); };
  document.ondragleave = () => $("drop").classList.remove("over");
  document.ondrop = (event) => {
    event.preventDefault();
    $("drop").classList.remove("over");
    if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
  };
}

function wire() {
  if (!boot.server) setClasses(boot.classes, boot.palette);
  addReading();
  addDropping();
  $("file").onchange = (event) => event.target.files[0] && take(event.target.files[0]);
  $("webcam").onclick = webcam;
  $("stop").onclick = stop;
  $("opacity").oninput = () => { $("opacity-shown").textContent = `${$("opacity").value} %`; show(); };
  $("confidence").onchange = show;
  $("save-mask").onclick = saveMask;
  $("save-overlay").onclick = () => $("view").toBlob((blob) => save(blob, "overlay"), "image/png");
  $("device").onchange = $("token").onchange = open;
}

function askToken() {
  $("token-row").hidden = false;
  $("token").focus();
}

// The runtime for a device, and the graph.
function partsFor(device) {
  const [code, binary, graph] = [`${device}-code`, `${device}-binary`, "graph"].map((id) => document.getElementById(id).textContent);
  return {code, binary, graph};
}

async function open() {
  state.open = false;
  document.documentElement.dataset.state = "opening";
  say("Opening the network.");
  try {
    const device = $("device").value, classes = boot.classes?.length;
    const here = boot.server ? {server: document.baseURI, token: $("token").value} : {device, classes, parts: partsFor(device)};
    const {hasConfidence} = await ask("open", here);
    state.open = true;
    $("confidence-row").hidden = !hasConfidence;
    say("Ready.");
    document.documentElement.dataset.state = "ready";
  } catch (error) {
    if (!boot.server && $("device").value === "webgpu") return openWithoutGpu();
    document.documentElement.dataset.state = "failed";
    say(boot.server ? `The server says: ${error.message}` : `This browser cannot open the network: ${error.message}`);
  }
}

// A GPU that is there may still not run the graph.
function openWithoutGpu() {
  $("device").value = "wasm";
  $("device-row").hidden = true;
  return open();
}

wire();
if (!boot.server) {
  const gpu = await ask("hasGpu").catch(() => false);
  $("device-row").hidden = !gpu;
  $("device").value = gpu ? "webgpu" : "wasm";
}
await open();
