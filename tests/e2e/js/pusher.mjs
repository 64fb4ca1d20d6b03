// SPDX-License-Identifier: Apache-2.0
// Copyright the Chappe contributors
//
// matrix-js-sdk registers a pusher, or takes it away. Reads {"url", "user_id", "password", "pushkey", "gateway", "kind"}
// from standard input (kind null: away); prints the pushkeys that the server has then, one a line.

import { readFileSync } from "node:fs";
import { sdk } from "./devices.mjs";

const input = JSON.parse(readFileSync(0, "utf8"));
const session = await sdk.createClient({ baseUrl: input.url }).login("m.login.password", {
    identifier: { type: "m.id.user", user: input.user_id },
    password: input.password,
});
const device = sdk.createClient({
    baseUrl: input.url,
    accessToken: session.access_token,
    userId: session.user_id,
    deviceId: session.device_id,
});
await device.setPusher({
    kind: input.kind,
    app_id: "com.example.app",
    pushkey: input.pushkey,
    app_display_name: "Example",
    device_display_name: "Browser",
    lang: "en",
    data: { url: input.gateway, format: "event_id_only" },
    append: true,
});
const { pushers } = await device.getPushers();
for (const pusher of pushers) {
    console.log(pusher.pushkey);
}
process.exit();
