/** Runs a graph in the user's onnxruntime-node. */
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { describe, run } from './graph.mjs';
import { converse, job } from './stdio.mjs';

await converse(async () => {
  const ort = createRequire(join(job.packages, 'package.json'))('onnxruntime-node');
  const session = await ort.InferenceSession.create(job.graph, {
    executionProviders: [job.provider],
    intraOpNumThreads: job.threads,
    logSeverityLevel: 3,
  });
  return {
    about: { version: ort.env.versions.node, ...describe(session) },
    answer: (frame) => run(ort, session, frame),
    close: () => session.release(),
  };
});
