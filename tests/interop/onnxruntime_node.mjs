/** Runs the graphs of each variant in onnxruntime-node. */
import { env, InferenceSession, Tensor } from 'onnxruntime-node';
import { askGraphs, tensors } from './asking.mjs';
import { answer, bytes, forEachVariant, job } from './shared.mjs';

const open = ({ path }) => InferenceSession.create(`${job.folder}/${path}`);
const inputs = await tensors(Tensor, job, bytes);
const variants = await forEachVariant((variant) => askGraphs(open, variant, inputs));
answer({ version: env.versions.node, variants });
