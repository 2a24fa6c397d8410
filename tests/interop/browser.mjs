/** Answers from a page in headless Chromium, which a server on localhost serves, and nobody else. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';
import { launch, openTab, sendFile, sendPage, serve } from './chromium.mjs';
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
  images: job.images.map(served),
};

/** Answers requests for files of folders that are served under their names. */
const files = (folders) => (request, response) => {
  const [, top, ...rest] = decodeURIComponent(request.url).split('/');
  if (top === '') return sendPage(response);
  if (!(top in folders) || rest.includes('..')) return response.writeHead(404).end();
  return sendFile(response, join(folders[top], ...rest));
};

/**
 * Gives `work` a function that asks in a new page: what one variant leaves in memory cannot help or harm the next.
 * Beside the answer stands what no answer makes good: errors in the console, failed requests, requests to others.
 */
export async function withBrowser(folders, work) {
  const server = await serve(files(folders));
  const profile = mkdtempSync(join(tmpdir(), 'siglip-onnx-chromium-'));
  const context = await launch(chromium, job.chromium, profile);
  try {
    return await work((ask, variant) => inNewPage(context, server.origin, ask, variant));
  } finally {
    await context.close();
    server.close();
    rmSync(profile, { recursive: true, force: true });
  }
}

async function inNewPage(context, origin, ask, variant) {
  const problems = [];
  const tab = await openTab(context, origin, (problem) => problems.push(problem));
  try {
    const said = await tab.evaluate(ask, { variant, job: pageJob }).catch((error) => ({ error: error.message }));
    return { ...said, problems };
  } finally {
    await tab.close();
  }
}
