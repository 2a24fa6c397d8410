/** What the scripts share in Node: the job that Python wrote, and the answers that Python reads. */
import { readFileSync } from 'node:fs';

export const job = JSON.parse(readFileSync(process.argv[2], 'utf8'));

/** The bytes of a file in a buffer of its own; Node's small buffers lie unaligned in a common one. */
export const bytes = (path) => new Uint8Array(readFileSync(path)).buffer;

/** What `work` gives for each variant of the job, or why it could not. */
export async function forEachVariant(work) {
  const answers = {};
  for (const [name, variant] of Object.entries(job.variants)) {
    try {
      answers[name] = await work(variant);
    } catch (error) {
      answers[name] = { error: String(error?.message ?? error) };
    }
  }
  return answers;
}

/** Python reads the last line: libraries print to standard output as well. */
export const answer = (value) => process.stdout.write(`\n${JSON.stringify(value)}\n`);
