/** Answers from a page in headless Chromium, which a server on localhost serves, and nobody else. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { basename, dirname, extname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';
import { job } from './shared.mjs';

/** What every page needs: these scripts, the artifact and the samples. */
export const pageFolders = {
  scripts: dirname(fileURLToPath(import.meta.url)),
  artifact: job.folder,
  samples: dirname(job.pixels.file),
};
const served = (path) => `/samples/${basename(path)}`;
const pageJob = {
  ...job,
  folder: 'artifact',
  pixels: { ...job.pixels, file: served(job.pixels.file) },
  ids: { ...job.ids, file: served(job.ids.file) },
  pictures: job.pictures.map(served),
};

const types = { '.js': 'text/javascript', '.mjs': 'text/javascript', '.wasm': 'application/wasm' };
// Without an icon of its own a page asks for /favicon.ico, and the answer would be an error in its console.
const page = '<!doctype html><title>siglip-onnx</title><link rel="icon" href="data:,">';
const quiet = ['no-first-run', 'disable-background-networking', 'disable-component-update', 'disable-sync'];

/** Serves folders under their names. */
async function serve(folders) {
  const server = createServer((request, response) => {
    const [, top, ...rest] = decodeURIComponent(request.url).split('/');
    if (top === '') return response.setHeader('content-type', 'text/html').end(page);
    if (!(top in folders) || rest.includes('..')) return response.writeHead(404).end();
    try {
      const body = readFileSync(join(folders[top], ...rest));
      return response.setHeader('content-type', types[extname(rest.at(-1))] ?? 'application/octet-stream').end(body);
    } catch {
      return response.writeHead(404).end();
    }
  });
  await new Promise((ready) => server.listen(0, '127.0.0.1', ready));
  return server;
}

/**
 * Gives `work` a function that asks in a new page: what one variant leaves in memory cannot help or harm the next.
 * Beside the answer stands what no answer makes good: errors in the console, failed requests, requests to others.
 */
export async function withBrowser(folders, work) {
  const server = await serve(folders);
  const origin = `http://127.0.0.1:${server.address().port}`;
  const profile = mkdtempSync(join(tmpdir(), 'siglip-onnx-chromium-'));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: job.chromium,
    headless: true,
    args: [...quiet, 'no-sandbox', 'disable-gpu', 'disable-quic'].map((flag) => `--${flag}`),
  });
  try {
    return await work((ask, variant) => inNewPage(context, origin, ask, variant));
  } finally {
    await context.close();
    server.close();
    rmSync(profile, { recursive: true, force: true });
  }
}

async function inNewPage(context, origin, ask, variant) {
  const tab = await context.newPage();
  const problems = [];
  tab.on('pageerror', (error) => problems.push(`page error: ${error.message}`));
  tab.on('console', (message) => message.type() === 'error' && problems.push(`console: ${message.text()}`));
  tab.on('requestfailed', (request) => problems.push(`failed request: ${request.url()}`));
  await tab.route((url) => url.origin !== origin, (route) => {
    problems.push(`request to ${route.request().url()}`);
    return route.abort();
  });
  try {
    await tab.goto(origin);
    const said = await tab.evaluate(ask, { variant, job: pageJob }).catch((error) => ({ error: error.message }));
    return { ...said, problems };
  } finally {
    await tab.close();
  }
}
