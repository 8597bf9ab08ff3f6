// BullMQ's flows: a chain is a parent with a child that has a child, a map is a parent with many children.
// Run as a program it works, sends, and prints figures as JSON.
import { FlowProducer, Queue, QueueEvents, Worker } from "bullmq";
import IORedis from "ioredis";

const [RATE, SECONDS, CHAINS, PLACES, CHILDREN] = process.env.WORKFLOWS_SIZES.split(" ").map(Number);
const connection = () => new IORedis(process.env.WORKFLOWS_URL, { maxRetriesPerRequest: null });
const queueName = "workflows";
const opts = { attempts: 3, removeOnComplete: { age: 600 } };
const now = () => (performance.timeOrigin + performance.now()) / 1e3;
const sleep = (seconds) => new Promise((done) => setTimeout(done, Math.max(seconds, 0) * 1000));

const work = async (job) => {
  if (job.name === "plain") return job.data.a + 1;
  if (job.name === "now") return now();
  const values = Object.values(await job.getChildrenValues());
  if (job.name === "stamp") return [values[0], now()];
  return values.reduce((sum, value) => sum + value, 0); // collect
};
const worker = () => new Worker(queueName, work, { connection: connection(), concurrency: 100 });
const flows = new FlowProducer({ connection: connection() });
const queue = new Queue(queueName, { connection: connection() });
const events = new QueueEvents(queueName, { connection: connection() });
await events.waitUntilReady();
const chain = (places) => {
  let flow = { name: "now", queueName, data: {}, opts };
  for (let place = 2; place < places; place++) flow = { name: "now", queueName, data: {}, opts, children: [flow] };
  return { name: "stamp", queueName, data: {}, opts, children: [flow] };
};
const atRate = async (one) => {
  const all = [];
  for (let count = 0; count < RATE * SECONDS; count++) { all.push(one()); await sleep(1 / RATE); }
  return Promise.all(all);
};

let alive = worker();
await (await queue.add("plain", { a: 1 }, opts)).waitUntilFinished(events);
const jobs = await atRate(async () => {
  const began = performance.now();
  await (await queue.add("plain", { a: 1 }, opts)).waitUntilFinished(events);
  return (performance.now() - began) / 1e3;
});
const hops = await atRate(async () => {
  const [before, after] = await (await flows.add(chain(2))).job.waitUntilFinished(events);
  return after - before;
});

let began = performance.now();
const children = Array.from({ length: CHILDREN }, (_, a) => ({ name: "plain", queueName, data: { a }, opts }));
const { job } = await flows.add({ name: "collect", queueName, data: {}, opts, children });
const sum = await job.waitUntilFinished(events);
if (sum !== (CHILDREN * (CHILDREN + 1)) / 2) throw new Error(`the sum is ${sum}`);
const map = (performance.now() - began) / 1e3;

await alive.close();
const sent = [];
for (let count = 0; count < CHAINS; count++) sent.push((await flows.add(chain(PLACES))).job);
const ends = sent.map((one) => one.waitUntilFinished(events));
began = performance.now();
alive = worker();
await Promise.all(ends);
const steps = (CHAINS * PLACES) / ((performance.now() - began) / 1e3);
console.log(JSON.stringify({ hops, jobs, steps, map }));
process.exit(0);
