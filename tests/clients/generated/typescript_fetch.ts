// Uses the typescript-fetch client of openapi-generator, and prints what it returns as JSON: URL PHOTO.
// Compiled by tsc next to the generated client, in the folder "client".
import { Configuration, HealthApi, ModelApi, PredictApi, Problem, ProblemFromJSON, ResponseError } from "./client";

declare const process: { argv: string[] };
declare function require(name: string): any;

async function problemOf(request: Promise<unknown>): Promise<Problem> {
  try {
    await request;
  } catch (error) {
    if (error instanceof ResponseError) return ProblemFromJSON(await error.response.json());
    throw error;
  }
  throw new Error("the request did not fail");
}

async function main(basePath: string, path: string): Promise<void> {
  const configuration = new Configuration({ basePath });
  const [api, model] = [new PredictApi(configuration), new ModelApi(configuration)];
  const file = new Blob([require("node:fs").readFileSync(path)]);
  const words = new Blob(["words"]);
  const predicted = await api.predict({ file, topK: 3 });
  const batch = await api.predictBatch({ files: [file, words], topK: 1 });
  const problem = await problemOf(api.predict({ file: words }));
  const empty = await problemOf(api.predict({ file: new Blob([]) }));
  const result = {
    model: (await model.model()).name,
    labels: (await model.modelLabels()).labels.length,
    status: (await new HealthApi(configuration).health()).status,
    classes: predicted.predictions.map((item) => item.classId),
    batch: batch.results[0].predictions?.map((item) => item.classId),
    explained: (await api.explain({ file })).classId,
    dimensions: (await api.embed({ file })).dimensions,
    problems: [problem.type, batch.results[1].problem?.type, empty.type],
  };
  console.log(JSON.stringify(result));
}

main(process.argv[2], process.argv[3]);
