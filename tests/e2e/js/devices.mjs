// SPDX-License-Identifier: Apache-2.0
// Copyright the Chappe contributors
//
// A matrix-js-sdk client with its rust crypto, kept syncing, and a way to wait for what it is given.

import { webcrypto } from "node:crypto";
globalThis.crypto ??= webcrypto;

const sdk = await import("matrix-js-sdk");
const { logger } = await import("matrix-js-sdk/lib/logger.js");
logger.setLevel("error");

export { sdk };

export class Device {
    /** Log in, start the crypto and sync until prepared. */
    static async login(url, { user_id, password, device_id }, options = {}) {
        const device = new Device();
        device.name = `${user_id}/${device_id}`;
        const stranger = sdk.createClient({ baseUrl: url });
        const answer = await stranger.login("m.login.password", {
            identifier: { type: "m.id.user", user: user_id },
            password,
            device_id,
        });
        device.client = sdk.createClient({
            baseUrl: url,
            userId: user_id,
            deviceId: device_id,
            accessToken: answer.access_token,
            timelineSupport: true,
        });
        await device.client.initRustCrypto({ useIndexedDB: false });
        // Unverified devices are what this test is about.
        device.client.setGlobalErrorOnUnknownDevices(false);
        device.syncs = 0;
        device.copies = new Map();
        device.client.on("sync", (state) => {
            device.state = state;
            device.syncs += 1;
        });
        device.client.on("Room.timeline", (event, room, toStart, removed, data) => {
            if (!toStart && data.liveEvent && event.getId().startsWith("$")) {
                device.copies.set(event.getId(), (device.copies.get(event.getId()) ?? 0) + 1);
            }
        });
        await device.client.startClient({ initialSyncLimit: 20, pollTimeout: 20000, ...options });
        await device.wait(() => device.state === "PREPARED" || device.state === "SYNCING", "its first sync");
        return device;
    }

    get userId() {
        return this.client.getUserId();
    }

    room(id) {
        return this.client.getRoom(id);
    }

    /** Wait until the condition holds; say what did not come when it does not. */
    async wait(condition, what, seconds = 20) {
        const end = Date.now() + seconds * 1000;
        for (;;) {
            const found = await condition();
            if (found) {
                return found;
            }
            if (Date.now() > end) {
                throw new Error(`${this.name} did not get ${what} in ${seconds} s (sync state ${this.state})`);
            }
            await new Promise((resume) => setTimeout(resume, 25));
        }
    }

    /** Wait for an event of a room, decrypted when it was encrypted. */
    async event(roomId, eventId, what) {
        const find = () => this.room(roomId)?.findEventById(eventId);
        await this.wait(find, what);
        await this.wait(() => !find().isBeingDecrypted() && !find().isDecryptionFailure(), `${what}, decrypted`);
        return find();
    }

    async text(roomId, body, extra = {}) {
        const answer = await this.client.sendEvent(roomId, "m.room.message", { msgtype: "m.text", body, ...extra });
        return answer.event_id;
    }

    stop() {
        this.client.stopClient();
    }
}

/** Report a finished step to the test that runs this script. */
export function done(step) {
    console.log(`done: ${step}`);
}

export function check(condition, what) {
    if (!condition) {
        throw new Error(`not so: ${what}`);
    }
}
