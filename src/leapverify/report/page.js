"use strict";
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const figures = read("figures");
  const palettes = read("palettes");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const NARROW_PX = 640;
  const config = { displaylogo: false, displayModeBar: false, responsive: false, scrollZoom: false, plotlyServerURL: "" };
  let printing = false;

  // Specifications name colours by role; a change of scheme is the same drawing in the other palette.
  const painted = (spec, palette) => {
    if (typeof spec === "string") return spec[0] === "@" && Object.hasOwn(palette, spec) ? palette[spec] : spec;
    if (Array.isArray(spec)) return spec.map((item) => painted(item, palette));
    if (spec && typeof spec === "object")
      return Object.fromEntries(Object.entries(spec).map(([key, value]) => [key, painted(value, palette)]));
    return spec;
  };

  const chosen = (figure) =>
    [...figure.querySelectorAll(".controls fieldset")].map((set) => set.querySelector("input:checked").value);

  const draw = (plot) => {
    const figure = plot.closest("figure");
    const choice = chosen(figure);
    const views = figures[plot.dataset.figure];
    const view = views.find((entry) => entry.choice.every((label, i) => label === choice[i])) || views[0];
    const palette = palettes[dark.matches && !printing ? "dark" : "light"];
    const width = printing ? Math.min(plot.clientWidth, 716) : plot.clientWidth;
    const layout = painted(width < NARROW_PX ? view.narrow : view.layout, palette);
    layout.width = width;
    return Plotly.react(plot, painted(view.data, palette), layout, config);
  };

  const plots = [...document.querySelectorAll(".plot")];
  const drawAll = () => Promise.all(plots.map(draw));
  const widths = new Map();
  let waiting = 0;
  const onResize = () => {
    window.clearTimeout(waiting);
    waiting = window.setTimeout(() => {
      for (const plot of plots)
        if (widths.get(plot) !== plot.clientWidth) { widths.set(plot, plot.clientWidth); draw(plot); }
    }, 120);
  };

  for (const plot of plots) {
    widths.set(plot, plot.clientWidth);
    plot.closest("figure").addEventListener("change", () => draw(plot));
  }
  dark.addEventListener("change", drawAll);
  window.addEventListener("resize", onResize);
  window.addEventListener("beforeprint", () => { printing = true; drawAll(); });
  window.addEventListener("afterprint", () => { printing = false; drawAll(); });
  drawAll().then(() => { document.documentElement.dataset.drawn = String(plots.length); });
})();
