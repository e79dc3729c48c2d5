// The page: what is opened, segmented and shown. One picture at a time.

const $ = (id) => document.getElementById(id);
const boot = JSON.parse($("boot").textContent);
const drawing = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
const state = {segment: null, picture: null, busy: false, kept: null, pointed: null, at: {x: 0, y: 0}, stream: null, said: 0, turn: 0, url: ""};

const say = (text) => { $("status").textContent = text; };

// --- a picture -------------------------------------------------------------------------------------------------------

async function segment(source, width, height, name) {
  if (state.busy || !state.segment) return;
  state.busy = true;
  try {
    const scale = Math.min(1, Math.sqrt(boot.most_pixels / (width * height)));
    const [w, h] = [width, height].map((side) => Math.max(1, Math.floor(side * scale)));
    drawing.canvas.width = w;
    drawing.canvas.height = h;
    drawing.drawImage(source, 0, 0, w, h);
    const pixels = drawing.getImageData(0, 0, w, h);
    if (!state.url && !state.stream) { say(`Segmenting ${name}.`); await nextFrame(); }
    const {mask, confidence, ms} = await state.segment(pixels);
    state.picture = {pixels, mask, confidence, name, ms};
    show();
    const live = state.url || state.stream;
    if (live && $("status").textContent.startsWith(`${name}: `) && performance.now() - state.said < 2000) return;
    state.said = performance.now();  // who listens to the page hears of a video now and then, not of every frame
    const reduced = scale < 1 ? `, reduced from ${width} x ${height}` : "";
    say(`${name}: ${w} x ${h} pixels${reduced}, ${ms.toFixed(1)} ms ${boot.server ? "from here to the server and back" : `on the ${onDevice()}`}.`);
  } catch (error) {
    stop();
    say(`${name} could not be segmented: ${error.message}`);
  } finally {
    state.busy = false;
  }
}

// A quarter of the time is for the person: while the network runs nothing else does.
const rest = () => new Promise((done) => { setTimeout(done, Math.max(20, (state.picture?.ms ?? 0) / 4)); });
const nextFrame = () => new Promise((done) => { setTimeout(done, 30); });
const onDevice = () => ($("device").value === "webgpu" && !$("device-row").hidden ? "GPU" : "CPU");

function look() {
  return {opacity: $("opacity").value / 100, confidence: $("confidence").checked, only: state.pointed ?? state.kept};
}

function show() {
  const {picture} = state;
  if (!picture) return;
  $("view").hidden = false;
  $("hint").hidden = true;
  paint($("view"), picture, look(), boot.palette);
  const shares = sharesOf(picture.mask, boot.classes.length);
  shares.forEach((share, label) => { $("legend").children[label].querySelector(".share").textContent = percent(share); });
  const most = shares.map((share, label) => [share, boot.classes[label]]).filter(([share]) => share > 0).sort((a, b) => b[0] - a[0]);
  $("view").setAttribute("aria-label", `${picture.name}: ${most.slice(0, 5).map(([share, name]) => `${name} ${percent(share)}`).join(", ")}`);
  for (const id of ["save-mask", "save-overlay"]) $(id).disabled = false;
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;

function read(x, y) {
  if (!state.picture) return;
  const {pixels: {width, height}, mask, confidence} = state.picture;
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
  await segment(bitmap, bitmap.width, bitmap.height, file.name);
  return bitmap.close();
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
    if (video.videoWidth) await segment(video, video.videoWidth, video.videoHeight, name);
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
  const {mask, pixels} = state.picture;
  save(await pngOf(mask, pixels.width, pixels.height), "mask");
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

async function open() {
  document.documentElement.dataset.state = "opening";
  say("Opening the network.");
  try {
    const askToken = () => { $("token-row").hidden = false; $("token").focus(); };
    const {value} = boot.server ? $("token") : $("device");
    state.segment = await (boot.server ? openServer(value, askToken, setClasses) : openHere(value));
    $("confidence-row").hidden = !state.segment.hasConfidence;
    say("Ready.");
    document.documentElement.dataset.state = "ready";
  } catch (error) {
    state.segment = null;
    document.documentElement.dataset.state = "failed";
    say(boot.server ? `The server says: ${error.message}` : `This browser cannot open the network: ${error.message}`);
  }
}

wire();
if (!boot.server) {
  const gpu = await hasGpu();
  $("device-row").hidden = !gpu;
  $("device").value = gpu ? "webgpu" : "wasm";
}
await open();
