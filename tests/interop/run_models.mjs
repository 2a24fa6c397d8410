/** Runs the libraries, in Node and in a page alike. */

/** An output [rows, columns] as nested lists, ready for JSON. */
export function table({ data, dims: [rows, columns] }) {
  return Array.from({ length: rows }, (_, row) => Array.from(data.slice(row * columns, (row + 1) * columns), Number));
}

/** The inputs by name; `read` returns the bytes of a file of the job. */
export async function tensors(Tensor, { pixels, ids }, read) {
  return {
    pixel_values: new Tensor('float32', new Float32Array(await read(pixels.file)), pixels.shape),
    input_ids: new Tensor('int64', new BigInt64Array(await read(ids.file)), ids.shape),
  };
}

/** Runs the three graphs of a variant in ONNX Runtime; `open` returns a session. */
export async function runGraphs(open, { vision, text, joint }, inputs) {
  const run = async (graph) => {
    const session = await open(graph);
    const outputs = await session.run(Object.fromEntries(session.inputNames.map((name) => [name, inputs[name]])));
    await session.release();
    return outputs;
  };
  const both = await run(joint);
  return {
    images: table((await run(vision)).pooler_output),
    texts: table((await run(text)).pooler_output),
    joint_images: table(both.image_embeds),
    joint_texts: table(both.text_embeds),
    logits: table(both.logits_per_image),
  };
}

/** Runs towers, joint model and pipeline in transformers.js, each with its options from the variant. */
export async function runTransformers(hub, { vision, text, joint }, inputs, { folder, images, texts, template }) {
  const run = async (modelClass, options, ...names) => {
    const model = await modelClass.from_pretrained(folder, options);
    const outputs = await model(Object.fromEntries(names.map((name) => [name, inputs[name]])));
    await model.dispose();
    return outputs;
  };
  const both = await run(hub.SiglipModel, joint, 'pixel_values', 'input_ids');
  return {
    images: table((await run(hub.SiglipVisionModel, vision, 'pixel_values')).pooler_output),
    texts: table((await run(hub.SiglipTextModel, text, 'input_ids')).pooler_output),
    joint_images: table(both.image_embeds),
    joint_texts: table(both.text_embeds),
    logits: table(both.logits_per_image),
    pipeline: await classify(hub, joint, folder, images, texts, template),
  };
}

async function classify(hub, options, folder, images, texts, template) {
  const pipeline = await hub.pipeline('zero-shot-image-classification', folder, options);
  const scores = [];
  for (const image of images) {
    const labels = await pipeline(image, texts, { hypothesis_template: template });
    scores.push(Object.fromEntries(labels.map(({ label, score }) => [label, score])));
  }
  await pipeline.dispose();
  return scores;
}
