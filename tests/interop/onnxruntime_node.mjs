/** Runs the graphs of each variant in onnxruntime-node. */
import { env, InferenceSession, Tensor } from 'onnxruntime-node';
import { bytes, forEachVariant, job, printResult } from './job.mjs';
import { runGraphs, tensors } from './run_models.mjs';

const open = ({ path }) => InferenceSession.create(`${job.folder}/${path}`);
const inputs = await tensors(Tensor, job, bytes);
const variants = await forEachVariant((variant) => runGraphs(open, variant, inputs));
printResult({ version: env.versions.node, variants });
