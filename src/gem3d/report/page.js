"use strict";
// Draws every plot from the JSON beside it, and marks in the contents where the reader is.
(() => {
  const COLOUR_BAR_PX = 90;
  const touch = window.matchMedia("(pointer: coarse)").matches;
  const config = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };
  const draw = (holder) => {
    const spec = JSON.parse(document.getElementById(holder.id + "-data").textContent);
    // A finger that scrolls the page must not zoom a plot instead.
    if (touch && !spec.layout.scene) spec.layout.dragmode = false;
    if (spec.layout.scene) {
      // The eye sees as much upwards as its place says; where there is less room across, it steps back.
      const eye = spec.layout.scene.camera.eye;
      const back = Math.max(1, holder.clientHeight / (holder.clientWidth - COLOUR_BAR_PX));
      for (const axis of "xyz") eye[axis] *= back;
    }
    return Plotly.newPlot(holder, spec.data, spec.layout, config);
  };
  const nextFrame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  const drawAll = async () => {
    // The page can be read while the slow ones, in three dimensions, are drawn last.
    const holders = [...document.querySelectorAll(".plot:not(.scene)"), ...document.querySelectorAll(".plot.scene")];
    for (const holder of holders) {
      await nextFrame();
      await draw(holder);
    }
    document.body.classList.add("drawn");
  };
  drawAll();

  const nav = document.querySelector("nav");
  const links = new Map();
  for (const link of nav.querySelectorAll("a")) links.set(link.hash.slice(1), link);
  const sections = [...document.querySelectorAll("section[id]")];
  const mark = () => {
    const here = sections.filter((s) => s.getBoundingClientRect().top < 0.35 * window.innerHeight).pop();
    for (const [name, link] of links) {
      const was = link.classList.contains("here"), is = here !== undefined && here.id === name;
      link.classList.toggle("here", is);
      if (is && !was) nav.scrollTo({ left: link.offsetLeft - 48 });
    }
  };
  document.addEventListener("scroll", mark, { passive: true });
  mark();
})();
