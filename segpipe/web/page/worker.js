// The worker: holds the network and the last picture, so that the page's own thread is always there for the person.

const held = {segment: null, picture: null, classes: 0};
const drawing = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
const painting = new OffscreenCanvas(1, 1);

// Each takes what the page gives, and answers with a value and what of it moves there.
const tasks = {
  async hasGpu() { return [await hasGpu()]; },

  async open({server, device, token, parts, classes}) {
    held.segment = null;
    held.classes = classes;
    const changed = (names, palette) => { held.classes = names.length; postMessage({event: "classes", names, palette}); };
    held.segment = server ? await openServer(server, token, () => postMessage({event: "token"}), changed) : await openHere(device, parts);
    return [{hasConfidence: Boolean(held.segment.hasConfidence)}];
  },

  async segment({bitmap, width, height}) {
    Object.assign(drawing.canvas, {width, height});
    drawing.drawImage(bitmap, 0, 0, width, height);
    bitmap.close();
    const pixels = drawing.getImageData(0, 0, width, height), {mask, confidence, ms} = await held.segment(pixels);
    held.picture = {pixels, mask, confidence};
    const answer = {width, height, ms, shares: sharesOf(mask, held.classes), mask: mask.slice(), confidence: confidence?.slice()};
    return [answer, [answer.mask.buffer, ...(confidence ? [answer.confidence.buffer] : [])]];
  },

  async paint({look, palette}) {
    paint(painting, held.picture, look, palette);
    const image = painting.transferToImageBitmap();
    return [image, [image]];
  },

  async maskPng() {
    const {mask, pixels} = held.picture;
    return [await pngOf(mask, pixels.width, pixels.height)];
  },
};

onmessage = async ({data: {turn, task, given}}) => {
  try {
    const [answer, moved = []] = await tasks[task](given);
    postMessage({turn, answer}, moved);
  } catch (error) {
    postMessage({turn, error: error.message});
  }
};
