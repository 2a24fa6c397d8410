/** Opens HTML files in headless Chromium and measures the pages, in light and dark color schemes and several widths. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { chromium } from 'playwright-core';
import { launch } from './chromium.mjs';
import { job, printResult } from './job.mjs';

/** Runs in the page. */
function measure() {
  document.querySelectorAll('details').forEach((details) => (details.open = true));
  const channels = (color) => color.match(/[\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => {
    // https://www.w3.org/TR/WCAG22/#dfn-relative-luminance
    const linear = [r, g, b].map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const behind = (element) => {
    const [r, g, b, alpha = 1] = channels(getComputedStyle(element).backgroundColor);
    return alpha === 1 || !element.parentElement ? [r, g, b] : behind(element.parentElement);
  };
  const contrast = (element) => {
    const style = getComputedStyle(element);
    const [high, low] = [channels(element instanceof SVGElement ? style.fill : style.color), behind(element)]
      .map(luminance)
      .sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05);
  };
  const ownText = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  const texts = [...document.body.querySelectorAll('*:not(title)')].filter(ownText);
  const box = ({ x, y, width, height }) => ({ x, y, width, height });
  return {
    overflow: document.documentElement.scrollWidth - innerWidth,
    background: luminance(behind(document.body)),
    contrast: texts.map((element) => [contrast(element), element.textContent.trim().slice(0, 40)]).sort((a, b) => a[0] - b[0])[0],
    texts: texts.length,
    images: [...document.images].map((image) => image.complete && image.naturalWidth),
    plots: [...document.querySelectorAll('svg')].map((svg) => ({
      label: svg.getAttribute('aria-label'),
      size: box(svg.getBoundingClientRect()),
      frame: box(svg.querySelector('.axes rect').getBBox()),
      marks: box(svg.querySelector('.marks').getBBox()),
    })),
  };
}

async function look(context, path, { width, scheme }) {
  const tab = await context.newPage();
  const problems = [];
  const url = pathToFileURL(path).href;
  tab.on('pageerror', (error) => problems.push(`page error: ${error.message}`));
  tab.on('console', (message) => problems.push(`console: ${message.text()}`));
  tab.on('request', (request) => request.url() !== url && problems.push(`request to ${request.url()}`));
  try {
    await tab.setViewportSize({ width, height: 800 });
    await tab.emulateMedia({ colorScheme: scheme });
    await tab.goto(url);
    return { ...(await tab.evaluate(measure)), problems };
  } finally {
    await tab.close();
  }
}

const profile = mkdtempSync(join(tmpdir(), 'siglip-onnx-chromium-'));
const context = await launch(chromium, job.chromium, profile);
try {
  const looks = [];
  for (const path of job.pages) for (const as of job.as) looks.push({ path, as, ...(await look(context, path, as)) });
  printResult({ looks });
} finally {
  await context.close();
  rmSync(profile, { recursive: true, force: true });
}
