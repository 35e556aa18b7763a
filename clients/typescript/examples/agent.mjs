// An agent with three tasks. ROLLCALL_URL and ROLLCALL_KEY say where Rollcall is, and which agent this is.

import { Heartbeat } from "rollcall-heartbeat";

await new Heartbeat().run((heartbeat) =>
  heartbeat.working(async () => {
    for (const task of ["one", "two", "three"]) {
      await heartbeat.check(); // waits while an operator wants a pause
      await new Promise((resolve) => setTimeout(resolve, 1000)); // the agent's work
      heartbeat.progress();
      heartbeat.usage({ tokens: 1200, costUsd: 0.004 });
      console.log("done:", task);
    }
  }),
);
