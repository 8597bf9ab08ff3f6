// BullMQ, on Redis: the roles of ruler.py, in Node. bullmq_.py describes it.
import { Queue, QueueEvents, Worker } from "bullmq";
import IORedis from "ioredis";
import { existsSync, renameSync, writeFileSync, openSync, writeSync } from "node:fs";

const env = process.env;
const connection = () => new IORedis(env.BENCH_URL, { maxRetriesPerRequest: null });
const queueName = env.BENCH_QUEUE ?? "bench";
const now = () => Number(process.hrtime.bigint()) / 1e9; // the monotonic clock that Python's time.monotonic() reads
const sleep = (seconds) => new Promise((done) => setTimeout(done, Math.max(seconds, 0) * 1000));
const payload = (number, due = 0) =>
  `${String(number).padStart(9, "0")} ${due.toFixed(6).padStart(17, "0")} `.padEnd(200, "x");
const OPTIONS = { removeOnComplete: env.BENCH_RESULTS ? { age: 60 } : true, attempts: 3 };
const CHUNK = 1000;

// ── work ──

function work() {
  const numbers = [], latencies = [];
  let first = 0, last = 0, cpuFirst = 0, cpuLast = 0;
  const cpu = () => { const used = process.cpuUsage(); return (used.user + used.system) / 1e6; };
  const ledger = env.BENCH_LEDGER ? openSync(env.BENCH_LEDGER, "a") : null;
  const sign = (what, number) => writeSync(ledger, `${what} ${number} ${now().toFixed(6)} ${process.pid}\n`);
  const timed = env.BENCH_MODE === "timed";
  const replace = (path, text) => { writeFileSync(`${path}.new`, text); renameSync(`${path}.new`, path); };
  const report = env.BENCH_REPORT;
  let told = 0;
  setInterval(() => {
    if (!report) return;
    if (numbers.length !== told) {
      told = numbers.length; cpuLast = cpu();
      replace(report.replace(/json$/, "count"), String(told));
    }
    if (existsSync(report.replace(/json$/, "ask")) && !existsSync(report)) {
      replace(report, JSON.stringify({ numbers, latencies, first, last, cpu: cpuLast - cpuFirst,
        rss: process.resourceUsage().maxRSS * 1024 }));
    }
  }, 10);
  new Worker(queueName, async (job) => {
    const data = job.data.data, at = now(), number = Number(data.slice(0, 9));
    if (!numbers.length) { first = at; cpuFirst = cpu(); }
    if (ledger !== null) { sign("start", number); await sleep(0.05); sign("end", number); }
    numbers.push(number);
    if (timed) latencies.push(at - Number(data.slice(10, 27)));
    last = now();
    return data.length;
  }, { connection: connection(), concurrency: 100,
       ...(env.BENCH_LEASE ? { lockDuration: env.BENCH_LEASE * 1000, stalledInterval: 1000 } : {}) });
}

// ── the other roles ──

async function role(name, told) {
  const client = connection(), queue = new Queue(queueName, { connection: client });
  const one = (data) => queue.add("job", { data }, OPTIONS);
  const many = (batch) => queue.addBulk(batch.map((data) => ({ name: "job", data: { data }, opts: OPTIONS })));
  let answer = null;
  if (name === "send") {
    answer = { one: [], many: [] };
    await many(Array(100).fill(payload(0)));
    for (let round = 0; round < told.rounds; round++) {
      for (const [kind, step, size] of [["one", () => one(payload(0)), 1], ["many", () => many(Array(CHUNK).fill(payload(0))), CHUNK]]) {
        let count = 0; const start = now();
        while (now() - start < told.seconds) { await step(); count += size; }
        answer[kind].push(count / (now() - start));
      }
    }
  } else if (name === "fill") {
    for (let first = 0; first < told.jobs; first += CHUNK) {
      await many(Array.from({ length: Math.min(CHUNK, told.jobs - first) }, (_, index) => payload(first + index)));
    }
  } else if (name === "arrive") {
    const start = now() + 0.1;
    for (let number = 0; number < told.jobs; number++) {
      const due = start + number / told.rate;
      while (due - now() > 0.002) await sleep(due - now() - 0.002);
      while (now() < due); // timers count in milliseconds
      await one(payload(number, due));
    }
  } else if (name === "trips") {
    const events = new QueueEvents(queueName, { connection: connection() });
    await events.waitUntilReady();
    const trip = async () => (await one(payload(0))).waitUntilFinished(events, 20000);
    const ms = [];
    for (let index = 0; index < 5; index++) await trip();
    let start = now();
    while (now() - start < told.seconds && ms.length < 300) { const before = now(); await trip(); ms.push((now() - before) * 1e3); }
    let count = 0; start = now();
    while (now() - start < told.seconds) { await Promise.all(Array.from({ length: 100 }, trip)); count += 100; }
    answer = { ms, rate: count / (now() - start) };
    await events.close();
  }
  await queue.close(); client.disconnect();
  console.log("ANSWER", JSON.stringify(answer));
  process.exit(0);
}

const [name, told] = process.argv.slice(2);
if (name === "work") work(); else await role(name, JSON.parse(told));
