// BullMQ: each process upserts the job schedulers when it starts, as its guide has it, and works.
import { Queue, Worker } from "bullmq";
import IORedis from "ioredis";
import { openSync, writeSync } from "node:fs";

const env = process.env;
const connection = () => new IORedis(env.SCHEDULES_URL, { maxRetriesPerRequest: null });
const ledger = openSync(env.SCHEDULES_LEDGER, "a");
const queue = new Queue("schedules", { connection: connection() });
for (let number = 0; number < Number(env.SCHEDULES_NUMBER); number++) {
  await queue.upsertJobScheduler(`s${number}`, { pattern: "* * * * *" }, { name: `s${number}` });
}
new Worker("schedules", async (job) => {
  writeSync(ledger, `${job.name} ${(Date.now() / 1000).toFixed(3)}\n`);
}, { connection: connection() });
