/** Runs functions in pages of headless Chromium, which a server on localhost serves. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';
import { launch, openTab, sendFile, sendPage, serve } from './chromium.mjs';
import { job } from './job.mjs';

/** The folders that every page needs: these scripts, the artifact and the samples. */
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

/** Responds to requests for files; each folder is served under its name. */
const files = (folders) => (request, response) => {
  const [, top, ...rest] = decodeURIComponent(request.url).split('/');
  if (top === '') return sendPage(response);
  if (!(top in folders) || rest.includes('..')) return response.writeHead(404).end();
  return sendFile(response, join(folders[top], ...rest));
};

/**
 * Calls `work` with a function that runs another one in a new page, so that no variant affects the next.
 * Each result lists `problems`: errors in the console, failed requests, and requests to other hosts.
 */
export async function withBrowser(folders, work) {
  const server = await serve(files(folders));
  const profile = mkdtempSync(join(tmpdir(), 'siglip-onnx-chromium-'));
  const context = await launch(chromium, job.chromium, profile);
  try {
    return await work((run, variant) => inNewPage(context, server.origin, run, variant));
  } finally {
    await context.close();
    server.close();
    rmSync(profile, { recursive: true, force: true });
  }
}

async function inNewPage(context, origin, run, variant) {
  const problems = [];
  const tab = await openTab(context, origin, (problem) => problems.push(problem));
  try {
    const result = await tab.evaluate(run, { variant, job: pageJob }).catch((error) => ({ error: error.message }));
    return { ...result, problems };
  } finally {
    await tab.close();
  }
}
