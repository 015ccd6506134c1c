// Drive a server with the vendor's Node client, and print as JSON what that saw.
//
// Run by Node with `SBX_URL`, `SBX_KEY`, `SBX_MODULES` (the `node_modules` that has the client; `make vendor`) and
// the names of scenarios, or none for all. `drive_python.py` has the same scenarios.

import { createRequire } from "node:module";

const require = createRequire(`${process.env.SBX_MODULES}/`);
const { Hyperbrowser, HyperbrowserError } = require("@hyperbrowser/sdk");

const URL = process.env.SBX_URL;
const NOISY = "head -c 300000 /dev/zero | tr '\\0' x";

const each = async (events) => {
  const all = [];
  for await (const event of events) all.push(event);
  return all;
};

// Return the error that an operation ends with.
const refusal = async (operation) => {
  try {
    await operation();
  } catch (error) {
    if (!(error instanceof HyperbrowserError)) throw error;
    return {
      status: error.statusCode,
      code: error.code,
      service: error.service,
      retryable: error.retryable,
      has_request_id: Boolean(error.requestId),
      message: error.message,
    };
  }
  return { status: "it was not refused" };
};

const told = ({ status, exitCode, stdout, stderr }) => ({ status, exit_code: exitCode, stdout, stderr });

const scenarios = {
  async sandbox_life(client) {
    const made = await client.sandboxes.create({ imageName: "python", timeoutMinutes: 7 });
    const madeStatus = made.status;
    const read = await client.sandboxes.get(made.id);
    const page = await client.sandboxes.list({ status: "active", limit: 100, search: made.id });
    const stopped = await made.stop();
    return {
      made: madeStatus,
      read: [read.id === made.id, read.status, read.timeoutMinutes],
      listed: page.sandboxes.map((entry) => entry.id === made.id),
      stopped: stopped.success,
      then: (await client.sandboxes.get(made.id)).status,
      exec_by_who_stopped_it: await refusal(() => made.exec("true")),
      exec_by_another: await refusal(() => read.exec("true")),
    };
  },

  async run(_, box) {
    const options = { cwd: "/tmp", env: { FOO: "bar" }, timeoutMs: 5000, runAs: "root" };
    return {
      seed: told(await box.exec("pwd && echo $FOO && whoami", options)),
      default_user: told(await box.exec("whoami")),
      exit_code: told(await box.exec("echo no >&2; exit 3")),
      time_limit: told(await box.exec("sleep 30", { timeoutMs: 200 })),
      args: told(await box.exec({ command: "printf", args: ["%s|", "a b", "it's"] })),
      not_utf8: told(await box.exec("printf 'a\\377b'")),
    };
  },

  async stdin(_, box) {
    const read = "read line; echo stdout:$line; echo stderr:$line 1>&2";
    const text = await box.processes.start(read, { runAs: "root" });
    await text.writeStdin({ data: "hello\n", eof: true });
    const raw = await box.processes.start("od -An -tx1");
    await raw.writeStdin(new Uint8Array([0x00, 0xff, 0x80]));
    await raw.writeStdin({ eof: true });
    const seen = { text: told(await text.result()), bytes: told(await raw.wait()) };
    return { ...seen, late: await refusal(() => text.writeStdin("late")) };
  },

  async get_and_list(client) {
    const box = await client.sandboxes.create({ imageName: "python" });
    const handles = [];
    for (let n = 0; n < 3; n++) handles.push(await box.processes.start("sleep 30", { runAs: "root" }));
    const ids = handles.map((handle) => handle.id).sort();
    const one = await box.getProcess(handles[0].id);
    const first = await box.processes.list({ status: "running", limit: 2 });
    const rest = await box.processes.list({ status: ["running"], limit: 2, cursor: first.nextCursor });
    const started = one.toJSON().startedAt;
    const later = await box.processes.list({ createdAfter: started + 3_600_000 });
    // A good while before: the first was made a moment before it was started.
    const around = await box.processes.list({ createdAfter: started - 60_000, createdBefore: started + 3_600_000 });
    const ended = await box.processes.list({ status: ["exited", "killed"] });
    const fourth = await box.processes.start("echo after the others");
    const queued = (await box.getProcess(fourth.id)).status;
    await handles[0].kill();
    const listed = [...first.data, ...rest.data].map((entry) => entry.id).sort();
    const seen = {
      got: [one.id === handles[0].id, one.status, one.toJSON().command],
      pages: [first.data.length, rest.data.length, JSON.stringify(listed) === JSON.stringify(ids)],
      no_page_after_the_last: rest.nextCursor === undefined,
      later: later.data.length,
      around: around.data.length,
      ended: ended.data.length,
      queued: [queued, told(await fourth.wait())],
      refreshed: (await one.refresh()).status,
    };
    await box.stop();
    return seen;
  },

  async stream(_, box) {
    const handle = await box.processes.start("echo out; sleep 0.1; echo err 1>&2; exit 4");
    const own = await each(handle.stream());
    const fetched = await box.getProcess(handle.id);
    const whole = await each(fetched.stream());
    const rest = await each(fetched.stream(2));
    const noisy = await box.processes.start(NOISY);
    const kept = await noisy.wait();
    const gone = await box.getProcess(noisy.id);
    const plain = (events) =>
      events.map((e) => (e.type === "exit" ? [e.type, e.result.exitCode] : [e.type, e.seq, e.data]));
    return {
      own: plain(own),
      whole: plain(whole),
      rest: plain(rest),
      noisy_bytes: kept.stdout.length,
      gone: await refusal(() => each(gone.stream(1))),
    };
  },

  async ends(_, box) {
    const asleep = await box.processes.start("sleep 30", { runAs: "root" });
    const fetched = await box.getProcess(asleep.id);
    const tooShort = await refusal(() => fetched.wait({ timeoutMs: 100 }));
    await fetched.signal("TERM");
    const deaf = await box.processes.start("trap '' TERM; while :; do sleep 1; done");
    const waiting = await box.processes.start("sleep 30");
    await waiting.signal("SIGKILL");
    return {
      too_short: tooShort,
      term: told(await fetched.wait()),
      kill: told(await deaf.kill()),
      sigkill: told(await waiting.wait()),
      unknown_signal: await refusal(() => fetched.signal("NOPE")),
    };
  },

  async refusals(client, box) {
    const wrong = new Hyperbrowser({ apiKey: "not-the-key", baseUrl: URL });
    return {
      unknown_process: await refusal(() => box.getProcess("no-such-process")),
      unknown_sandbox: await refusal(() => client.sandboxes.get("no-such-sandbox")),
      unknown_directory: await refusal(() => box.processes.start("true", { cwd: "/no/such/place" })),
      unknown_user: await refusal(() => box.processes.start("true", { runAs: "nobody-knows" })),
      unknown_image: await refusal(() => client.sandboxes.create({ imageName: "no-such-image" })),
      unknown_status: await refusal(() => box.processes.list({ status: "nope" })),
      wrong_key: await refusal(() => wrong.sandboxes.list()),
      files: await refusal(() => box.files.list("/tmp")),
    };
  },

  async token_renewal(client, box) {
    const other = await client.sandboxes.get(box.id);
    other.runtimeSession = { ...other.runtimeSession, token: "spoilt" };
    return { exec: told(await other.exec("echo renewed")) };
  },
};

const client = new Hyperbrowser({ apiKey: process.env.SBX_KEY, baseUrl: URL });
const box = await client.sandboxes.create({ imageName: "python" });
const names = process.argv.slice(2);
const seen = {};
for (const name of names.length ? names : Object.keys(scenarios)) {
  try {
    seen[name] = await scenarios[name](client, box);
  } catch (error) {
    seen[name] = { crashed: error.stack };
  }
}
await box.stop();
console.log(JSON.stringify(seen));
