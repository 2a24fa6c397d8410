/** The job that Python writes, and the result that Python reads. */
import { readFileSync } from 'node:fs';

export const job = JSON.parse(readFileSync(process.argv[2], 'utf8'));

/** The bytes of a file in a new buffer; Node places small buffers unaligned in a shared one. */
export const bytes = (path) => new Uint8Array(readFileSync(path)).buffer;

/** The result of `work` for each variant of the job, or its error message. */
export async function forEachVariant(work) {
  const results = {};
  for (const [name, variant] of Object.entries(job.variants)) {
    try {
      results[name] = await work(variant);
    } catch (error) {
      results[name] = { error: String(error?.message ?? error) };
    }
  }
  return results;
}

/** Prints the result as the last line, since libraries print to standard output as well. */
export const printResult = (value) => process.stdout.write(`\n${JSON.stringify(value)}\n`);
