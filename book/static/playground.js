// The StyleGAN2 generator once more, in the reader's browser: the weights of a record, the arithmetic of
// stylegan2/mapping.py, modulation.py and generator.py, for one image at a time and without
// noise. tests/site/test_playground.py compares the two.
"use strict";

(() => {
  const STATIC = new URL(".", document.currentScript.src);
  const FILTER = [1, 3, 3, 1];

  /** Tensors by name, of a safetensors file: eight bytes for the header's length, the header, the numbers. */
  async function readWeights(address) {
    const response = await fetch(address);
    if (!response.ok) throw new Error(`${response.status} ${response.statusText}`);
    const bytes = await response.arrayBuffer();
    const start = 8 + Number(new DataView(bytes).getBigUint64(0, true));
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 8, start - 8)));
    const tensors = {};
    for (const [name, {data_offsets: at, shape}] of Object.entries(header)) {
      if (name === "__metadata__") continue;
      const data = new Float32Array(bytes.slice(start + at[0], start + at[1]));
      tensors[name.replace(/^average\./, "")] = {data, shape};
    }
    return tensors;
  }

  const leakyRelu = x => (x > 0 ? x : 0.2 * x);

  /** An equalized linear layer: the stored numbers are scaled where they are used. */
  function linear(x, weight, bias, gain = 1) {
    const scale = gain / Math.sqrt(x.length);
    return Float32Array.from(bias.data, (b, o) => {
      let sum = 0;
      for (let i = 0; i < x.length; i++) sum += weight.data[o * x.length + i] * x[i];
      return sum * scale + b * gain;
    });
  }

  class Generator {
    constructor(tensors) {
      this.tensors = tensors;
      this.blocks = 1 + new Set(Object.keys(tensors).map(name => name.match(/blocks\.(\d+)/)?.[1]).filter(Boolean)).size;
      this.layers = 2 * this.blocks;
      this.side = 2 << this.blocks;
    }

    of(module) {
      return name => this.tensors[`generator.${module}${name}`];
    }

    /** z → w; a layer learned at a hundredth of the rate, so its numbers are scaled by that. */
    map(z) {
      const length = Math.sqrt(z.reduce((sum, x) => sum + x * x, 0) / z.length + 1e-8);
      let x = Float32Array.from(z, value => value / length);
      for (let i = 0; `mapping.layers.${i}.bias` in this.tensors; i++) {
        const layer = name => this.tensors[`mapping.layers.${i}.${name}`];
        x = linear(x, layer("weight.weight"), layer("bias"), 0.01 * Math.SQRT2).map(leakyRelu);
      }
      return x;
    }

    truncate(w, psi) {
      return w.map((x, i) => this.tensors["mapping.mean_w"].data[i] * (1 - psi) + psi * x);
    }

    /** One w per layer → RGB, [3, side, side], about −1 … 1: the sum of what every resolution adds. */
    image(w) {
      const constant = this.tensors["generator.initial_constant"];
      let x = {data: constant.data, channels: constant.shape[1], side: 4};
      x = this.styleBlock("style_block.", x, w[0]);
      let rgb = this.toRGB("to_rgb.", x, w[1]);
      for (let i = 1; i < this.blocks; i++) {
        const block = `blocks.${i - 1}.`;
        x = this.styleBlock(`${block}style_block1.`, x, w[2 * i - 1], true);
        x = this.styleBlock(`${block}style_block2.`, x, w[2 * i]);
        rgb = add(upSample(rgb), this.toRGB(`${block}to_rgb.`, x, w[2 * i + 1]));
      }
      return rgb.data;
    }

    styleBlock(module, x, w, up = false) {
      const of = this.of(module);
      const weight = of("conv.weight"), bias = of("bias").data;
      const style = linear(w, of("to_style.weight.weight"), of("to_style.bias"));
      const out = up ? smooth(doubled(modulated(x, style), weight)) : convolved(modulated(x, style), weight);
      const area = out.side ** 2, scale = demodulation(weight, style);
      for (let o = 0; o < out.channels; o++)
        for (let at = o * area; at < (o + 1) * area; at++)
          out.data[at] = leakyRelu(Math.SQRT2 * (out.data[at] * scale[o] + bias[o]));
      return out;
    }

    toRGB(module, x, w) {
      const of = this.of(module);
      const style = linear(w, of("to_style.weight.weight"), of("to_style.bias"));
      const out = convolved(modulated(x, style.map(s => s / Math.sqrt(x.channels))), of("conv.weight"));
      out.data.forEach((_, at) => { out.data[at] += of("bias").data[Math.floor(at / out.side ** 2)]; });
      return out;
    }
  }

  /** Each channel times its style: equation 1 of StyleGAN2, on the activations. */
  const modulated = (x, style) => ({...x, data: x.data.map((value, at) => value * style[Math.floor(at / x.side ** 2)])});

  /** 1/√(Σ (s·w)² + ε) for every output channel: equation 3. */
  function demodulation({data, shape: [out, into, k]}, style) {
    const energy = new Float64Array(out);
    for (let at = 0; at < data.length; at++) {
      const o = Math.floor(at / (into * k * k)), i = Math.floor(at / (k * k)) % into;
      energy[o] += (data[at] * style[i]) ** 2;
    }
    return energy.map(sum => 1 / Math.sqrt(sum + 1e-8));
  }

  /** A convolution that keeps the size. */
  function convolved(x, {data: weight, shape: [out, into, k]}) {
    const {side} = x, pad = (k - 1) / 2, result = new Float32Array(out * side * side);
    for (let o = 0, at = 0; o < out; o++)
      for (let i = 0; i < into; i++)
        for (let ky = 0; ky < k; ky++)
          for (let kx = 0; kx < k; kx++, at++) {
            const factor = weight[at], dy = ky - pad, dx = kx - pad;
            const left = Math.max(0, -dx), right = Math.min(side, side - dx);
            for (let y = Math.max(0, -dy); y < Math.min(side, side - dy); y++) {
              const to = (o * side + y) * side, from = (i * side + y + dy) * side + dx;
              for (let column = left; column < right; column++) result[to + column] += factor * x.data[from + column];
            }
          }
    return {data: result, channels: out, side};
  }

  /** The transposed convolution of stride 2: every pixel spreads over three by three. */
  function doubled(x, {data: weight, shape: [out, into, k]}) {
    const side = 2 * x.side + k - 2, result = new Float32Array(out * side * side);
    for (let o = 0, at = 0; o < out; o++)
      for (let i = 0; i < into; i++)
        for (let ky = 0; ky < k; ky++)
          for (let kx = 0; kx < k; kx++, at++) {
            const factor = weight[at];
            for (let y = 0; y < x.side; y++) {
              const to = (o * side + 2 * y + ky) * side + kx, from = (i * x.side + y) * x.side;
              for (let column = 0; column < x.side; column++)
                result[to + 2 * column] += factor * x.data[from + column];
            }
          }
    return {data: result, channels: out, side};
  }

  /** The low-pass filter with gain 4; one pixel of zeros around, so that the size shrinks by one. */
  function smooth(x) {
    const side = x.side - 1, result = new Float32Array(x.channels * side * side);
    for (let c = 0; c < x.channels; c++)
      for (let y = 0; y < side; y++)
        for (let column = 0; column < side; column++) {
          let sum = 0;
          for (let ky = 0; ky < 4; ky++)
            for (let kx = 0; kx < 4; kx++) {
              const v = y + ky - 1, u = column + kx - 1;
              if (v >= 0 && u >= 0 && v < x.side && u < x.side)
                sum += FILTER[ky] * FILTER[kx] * x.data[(c * x.side + v) * x.side + u];
            }
          result[(c * side + y) * side + column] = sum / 16;
        }
    return {data: result, channels: x.channels, side};
  }

  /** Zeros between the pixels and around, then the same filter. */
  function upSample(x) {
    const side = 2 * x.side + 1, spread = new Float32Array(x.channels * side * side);
    for (let c = 0; c < x.channels; c++)
      for (let y = 0; y < x.side; y++)
        for (let column = 0; column < x.side; column++)
          spread[(c * side + 2 * y + 1) * side + 2 * column + 1] = x.data[(c * x.side + y) * x.side + column];
    return smooth({data: spread, channels: x.channels, side});
  }

  const add = (a, b) => ({...a, data: a.data.map((value, at) => value + b.data[at])});

  /** Standard normal numbers (Box and Muller). */
  const normal = count => Float32Array.from({length: count}, () =>
    Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random()));

  function paint(canvas, rgb, side) {
    const pixels = new ImageData(side, side);
    for (let at = 0; at < side * side; at++) {
      for (let c = 0; c < 3; c++) pixels.data[4 * at + c] = (rgb[c * side * side + at] + 1) * 127.5;  // rounds, clamps
      pixels.data[4 * at + 3] = 255;
    }
    canvas.getContext("2d").putImageData(pixels, 0, 0);
  }

  /** Two faces, and the one that the controls make of them. */
  class Playground {
    constructor(figure) {
      this.figure = figure;
      this.given = JSON.parse(figure.querySelector('script[type="application/json"]').textContent);
      this.z = this.given.z.map(numbers => Float32Array.from(numbers));
      this.canvases = [...figure.querySelectorAll("canvas")];
      this.sliders = [...figure.querySelectorAll("input")];
      this.status = figure.querySelector("[role=status]");
      this.sliders.forEach(slider => slider.addEventListener("input", () => this.ask()));
      figure.querySelectorAll("button[data-face]").forEach(button => button.addEventListener("click", () => {
        this.z[Number(button.dataset.face)] = normal(this.z[0].length);
        this.ask();
      }));
      figure.querySelector("button[data-reset]").addEventListener("click", () => {
        this.z = this.given.z.map(numbers => Float32Array.from(numbers));
        this.sliders.forEach(slider => { slider.value = slider.defaultValue; });
        this.ask();
      });
    }

    /** Draw what the controls say now; while that lasts, they may move on. */
    ask() {
      for (const slider of this.sliders) slider.nextElementSibling.textContent = slider.value;
      this.asked = true;
      this.drawing ??= this.drawAll().finally(() => { this.drawing = null; });
    }

    async drawAll() {
      try {
        this.generator ??= new Generator(await this.load());
      } catch (error) {
        this.status.textContent = `The network could not be fetched (${error.message}). A page that was opened as a file `
          + "may not read other files: it has to come from a server.";
        return;
      }
      while (this.asked) {
        this.asked = false;
        await new Promise(requestAnimationFrame);
        this.draw();
      }
    }

    /** The mixture; and when the controls rest, the two faces, if they are no longer what is shown. */
    draw() {
      const begun = performance.now();
      const value = Object.fromEntries(this.sliders.map(slider => [slider.name, Number(slider.value)]));
      const faces = this.z.map(z => this.generator.truncate(this.generator.map(z), value.psi));
      const layers = [...Array(this.generator.layers).keys()];
      this.show(0, layers.map(layer => {
        const w = Float32Array.from(faces[layer < value.crossover ? 0 : 1]);
        for (const [name, direction] of Object.entries(this.given.directions))
          for (let i = 0; i < w.length; i++) w[i] += value[name] * direction[i];
        return w;
      }));
      this.status.textContent = `${(performance.now() - begun).toFixed(0)} ms, in this browser.`;
      const key = [value.psi, ...this.z.map(z => z[0])].join();
      if (key === this.shown || this.asked) return;
      faces.forEach((w, i) => this.show(i + 1, layers.map(() => w)));
      this.shown = key;
    }

    show(place, w) {
      paint(this.canvases[place], this.generator.image(w), this.generator.side);
    }

    load() {
      this.status.textContent = `Fetching the network, ${this.given.size} …`;
      return readWeights(new URL(this.given.weights, STATIC));
    }
  }

  document.addEventListener("DOMContentLoaded", () => {
    for (const figure of document.querySelectorAll("figure.playground")) figure.playground = new Playground(figure);
  });
})();
