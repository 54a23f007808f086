#!/bin/sh
say() { redis-cli ${REDIS_URL:+-u "$REDIS_URL"} PUBLISH job-updates "{\"jobId\":\"${JOB:-42}\",\"status\":\"$1\",\"progress\":$2}"; }
say queued 0
for progress in 25 50 75; do sleep 1; say running "$progress"; done
say completed 100
