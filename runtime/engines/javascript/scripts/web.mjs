/** Runs a graph in the user's onnxruntime-web, in a page of headless Chromium. */
import { randomUUID } from 'node:crypto';
import { createRequire } from 'node:module';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { launch, openTab, sendFile, sendPage, serve } from './chromium.mjs';
import { converse, job } from './stdio.mjs';

const here = dirname(fileURLToPath(import.meta.url));
const require = createRequire(join(job.packages, 'package.json'));
const secret = randomUUID(); // keeps other users of this machine from reading from the server
const isolated = { 'cross-origin-opener-policy': 'same-origin', 'cross-origin-embedder-policy': 'require-corp' };

// Playwright writes into the folder that Python deletes. Chromium keeps its own folder, which it deletes itself, because
// the path of its socket must have less than 100 characters.
const own = { ...process.env };
for (const name of ['TMPDIR', 'TEMP', 'TMP']) process.env[name] = job.scratch;

async function body(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks);
}

/** Serves the page, the scripts, the graph with its data files, and the current frame (`exchange`). */
function responder(ort, exchange) {
  const routes = {
    '': (response) => sendPage(response),
    js: (response, name) => sendFile(response, join(here, basename(name))),
    ort: (response, name) => sendFile(response, join(ort, basename(name))),
    graph: (response) => sendFile(response, job.graph),
    data: (response, number) => sendFile(response, join(dirname(job.graph), job.data[number])),
    frame: async (response, _, request) => {
      if (request.method !== 'POST') return response.end(exchange.sent);
      exchange.received = await body(request);
      return response.end();
    },
  };
  return async (request, response) => {
    const [, key, top, name] = new URL(request.url, 'http://localhost').pathname.split('/');
    if (key !== secret || !Object.hasOwn(routes, top)) return response.writeHead(404).end();
    for (const [header, value] of Object.entries(isolated)) response.setHeader(header, value); // required for threads
    return routes[top](response, name, request);
  };
}

await converse(async () => {
  const { chromium } = require('playwright-core');
  const exchange = { sent: null, received: null };
  const server = await serve(responder(dirname(require.resolve('onnxruntime-web')), exchange));
  const context = await launch(chromium, job.chromium, join(job.scratch, 'profile'), own);
  const tab = await openTab(context, `${server.origin}/${secret}/`, console.error);
  const about = await tab.evaluate(async (job) => (await import('./js/page.mjs')).open(job), {
    provider: job.provider,
    threads: job.threads,
    data: job.data,
  });
  return {
    about,
    answer: async (frame) => {
      Object.assign(exchange, { sent: frame, received: null });
      await tab.evaluate(async () => (await import('./js/page.mjs')).answer());
      return exchange.received;
    },
    close: () => context.close(),
  };
});
