import { createClient } from "redis";
const redis = await createClient({ url: process.env.REDIS_URL }).connect();
const say = (status, progress) => redis.publish("job-updates", JSON.stringify({ jobId: process.argv[2] ?? "42", status, progress }));
for (const progress of [0, 25, 50, 75, 100]) await say(progress < 100 ? "running" : "completed", progress);
await redis.close();
