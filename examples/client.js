// Classifies an image, with Node.js 18 or newer: node examples/client.js [IMAGE] [URL]
const { readFile } = require("node:fs/promises");

const [image = "examples/coffee.jpg", url = "http://127.0.0.1:8000"] = process.argv.slice(2);

async function main() {
  const form = new FormData();
  form.append("file", new Blob([await readFile(image)]), image);
  const response = await fetch(`${url}/predict?top_k=3`, { method: "POST", body: form });
  if (!response.ok) {
    throw new Error(`${response.status}: ${await response.text()}`);
  }
  for (const { label, probability } of (await response.json()).predictions) {
    console.log(`${probability.toFixed(3)}  ${label}`);
  }
}

main().catch((error) => {
  console.error(error.message);
  process.exit(1);
});
