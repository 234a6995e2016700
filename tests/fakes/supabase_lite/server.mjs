// `node server.mjs DATABASE_URL prepare` makes the schema `auth`; `node server.mjs DATABASE_URL serve` serves /auth/v1
// and /rest/v1 on a free port of the loopback interface, which it prints, until its standard input ends.
import http from "node:http";
import { App } from "@supabase/lite";
import { createPostgresConnection } from "@supabase/lite/postgres";

const [url, action] = process.argv.slice(2);
const { pathname, searchParams } = new URL(url.replace("///", "//localhost/"));
const connection = createPostgresConnection({
  url: `postgres://${searchParams.get("user")}@localhost${pathname}`,
  postgresOptions: {
    path: `${searchParams.get("host")}/.s.PGSQL.${searchParams.get("port")}`,
    onnotice: () => {},
  },
});
const app = new App({
  connection,
  auth: {
    enabled: true,
    jwt_secret: process.env.JWT_SECRET,
    publishable_key: "sb_publishable_of_tests",
    secret_key: "sb_secret_of_tests",
    email: { double_confirm_changes: false },
  },
});

if (action === "prepare") {
  await app.ensureSystemSchema();
  await connection.close();
} else {
  const server = http.createServer(async (request, response) => {
    const parts = [];
    for await (const part of request) parts.push(part);
    const body = parts.length ? Buffer.concat(parts) : undefined;
    const { method, headers } = request;
    const answer = await app.fetch(new Request(`http://${headers.host}${request.url}`, { method, headers, body }), {
      peerAddress: request.socket.remoteAddress,
    });
    response.writeHead(answer.status, Object.fromEntries(answer.headers));
    response.end(Buffer.from(await answer.arrayBuffer()));
  });
  server.listen(0, "127.0.0.1", () => console.log(server.address().port));
  process.stdin.on("end", () => process.exit()).resume();
}
