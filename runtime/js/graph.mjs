/** A graph in ONNX Runtime, in Node and in a page alike. */
import { arrayOf, pack, unpack } from './frames.mjs';

/** Its inputs and outputs; a free dimension without a name is "?" (engine.UNKNOWN in Python). */
export function describe({ inputMetadata, outputMetadata }) {
  const spec = ({ name, type, shape }) => ({ name, dtype: type, shape: shape.map((length) => length || '?') });
  return { inputs: inputMetadata.map(spec), outputs: outputMetadata.map(spec) };
}

/** The frame with the outputs that a frame with the inputs asks for. */
export async function run({ Tensor }, session, frame) {
  const { outputs, tensors } = unpack(frame);
  const feeds = tensors.map(({ name, dtype, shape, data }) => [name, new Tensor(dtype, data, shape)]);
  const found = await session.run(Object.fromEntries(feeds), outputs);
  const listed = outputs.map((name) => [name, found[name]]);
  listed.forEach(([, { type }]) => arrayOf(type)); // refuses what Python would not be told rightly
  return pack({ tensors: listed.map(([name, { type, dims, data }]) => ({ name, dtype: type, shape: [...dims], data })) });
}
