// SPDX-License-Identifier: Apache-2.0
// Copyright the Chappe contributors
//
// Encrypted daily use by matrix-js-sdk with its rust crypto: two users, two devices each, one homeserver
// URL. Reads {"url", "devices": [{user_id, password, device_id} × 4]} from standard input, alice's two
// devices first; prints "done: step" lines; ends with status 1 and the reason when something is missing.

import { readFileSync } from "node:fs";
import { check, Device, done, sdk } from "./devices.mjs";

const input = JSON.parse(readFileSync(0, "utf8"));
const devices = [];
try {
    await run();
    process.exitCode = 0;
} catch (error) {
    console.error(error.stack ?? String(error));
    process.exitCode = 1;
} finally {
    devices.forEach((device) => device.stop());
    process.exit();
}

async function run() {
    for (const account of input.devices) {
        devices.push(await Device.login(input.url, account, { lazyLoadMembers: true }));
    }
    const [laptop, phone, bobLaptop, bobPhone] = devices;
    done("login");
    const room = await encryptedRoom(laptop, bobLaptop, [bobLaptop, bobPhone]);
    done("invite and join");
    await messages(room);
    done("messages");
    await relations(room, laptop, bobPhone);
    done("edit, reaction, redaction, thread");
    await ephemeral(room, laptop, phone, bobLaptop, bobPhone);
    done("typing, receipts, counts");
    await accountData(room, laptop, phone);
    done("account data and tags");
    await verification(laptop, phone);
    done("verification");
    await logout(room, laptop, phone, bobLaptop, bobPhone);
    done("logout of one device");
    await goings(room, laptop, bobLaptop);
    done("kick, invite, rejection, leave");
    for (const device of devices) {
        const twice = [...device.copies].filter(([, copies]) => copies > 1);
        check(twice.length === 0, `${device.name} got events once; twice: ${twice}`);
    }
    done("no event twice");
}

async function encryptedRoom(owner, guest, guestDevices) {
    const { room_id: room } = await owner.client.createRoom({
        name: "Encrypted",
        preset: "private_chat",
        invite: [guest.userId],
        initial_state: [
            { type: "m.room.encryption", state_key: "", content: { algorithm: "m.megolm.v1.aes-sha2" } },
        ],
    });
    for (const device of guestDevices) {
        await device.wait(() => device.room(room)?.getMyMembership() === "invite", "the invitation");
    }
    await guest.client.joinRoom(room);
    for (const device of devices) {
        await device.wait(() => device.room(room)?.getMyMembership() === "join", "the joined room");
        await device.wait(() => device.room(room).hasEncryptionStateEvent(), "the room's encryption");
        await device.wait(() => device.room(room).getJoinedMemberCount() === 2, "two members in the summary");
    }
    return room;
}

async function messages(room) {
    for (const [number, sender] of devices.entries()) {
        const body = `hello ${number} from ${sender.name}`;
        const id = await sender.text(room, body);
        for (const device of devices) {
            const event = await device.event(room, id, body);
            check(event.isEncrypted(), "the message went encrypted");
            check(event.getContent().body === body, `${device.name} read ${event.getContent().body}`);
        }
    }
}

async function relations(room, laptop, bobPhone) {
    const target = await laptop.text(room, "first version");
    await bobPhone.event(room, target, "the message to edit");
    const edit = await laptop.text(room, "* second version", {
        "m.new_content": { msgtype: "m.text", body: "second version" },
        "m.relates_to": { rel_type: "m.replace", event_id: target },
    });
    await bobPhone.event(room, edit, "the edit");
    await bobPhone.wait(
        () => bobPhone.room(room).findEventById(target).getContent().body === "second version",
        "the edited text",
    );
    const reaction = await bobPhone.client.sendEvent(room, "m.reaction", {
        "m.relates_to": { rel_type: "m.annotation", event_id: target, key: "👍" },
    });
    await laptop.event(room, reaction.event_id, "the reaction");
    await laptop.client.redactEvent(room, target);
    await bobPhone.wait(() => bobPhone.room(room).findEventById(target).isRedacted(), "the redaction");
    const root = await laptop.text(room, "root of a thread");
    await bobPhone.event(room, root, "the thread's root");
    const reply = await bobPhone.text(room, "in the thread", {
        "m.relates_to": { rel_type: "m.thread", event_id: root },
    });
    await laptop.event(room, reply, "the reply in the thread");
}

async function ephemeral(room, laptop, phone, bobLaptop, bobPhone) {
    const bob = bobLaptop.userId;
    const types = (device) => device.room(room).getMember(bob)?.typing;
    await bobLaptop.client.sendTyping(room, true, 20000);
    await laptop.wait(() => types(laptop), "typing");
    await phone.wait(() => types(phone), "typing");
    await bobLaptop.client.sendTyping(room, false, 0);
    await laptop.wait(() => !types(laptop), "the end of typing");

    const id = await laptop.text(room, "to be read");
    const event = await bobPhone.event(room, id, "the message to read");
    const unread = () => bobLaptop.room(room).getRoomUnreadNotificationCount(sdk.NotificationCountType.Total);
    await bobLaptop.wait(() => unread() > 0, "an unread count");
    await bobPhone.client.sendReadReceipt(event, "m.read", true);
    for (const device of [laptop, phone]) {
        await device.wait(() => device.room(room).getEventReadUpTo(bob) === id, "the read receipt");
    }
    await bobLaptop.wait(() => unread() === 0, "the count cleared by the other device");
}

async function accountData(room, laptop, phone) {
    await laptop.client.setAccountData("org.example.setting", { theme: "dark" });
    await phone.wait(
        () => phone.client.getAccountData("org.example.setting")?.getContent().theme === "dark",
        "global account data",
    );
    await laptop.client.setRoomTag(room, "m.favourite", { order: 0.5 });
    await phone.wait(() => phone.room(room).tags["m.favourite"]?.order === 0.5, "the tag");
}

/** Two devices of one user compare short strings: a dozen to-device messages, each way, in order. */
async function verification(one, two) {
    const incoming = new Promise((resume) => two.client.once("crypto.verificationRequestReceived", resume));
    const request = await one.client.getCrypto().requestDeviceVerification(one.userId, two.client.getDeviceId());
    const received = await within(incoming, 20, "the verification request");
    await received.accept();
    await one.wait(() => request.phase === 3 /* ready */, "the acceptance");
    const verifier = await request.startVerification("m.sas.v1");
    const other = await two.wait(() => received.verifier, "the start of the verification");
    const confirmed = [verifier, other].map(
        (side) =>
            new Promise((resume, fail) => {
                side.once("show_sas", (sas) => resume(sas));
                side.verify().catch(fail);
            }),
    );
    const [mine, theirs] = await within(Promise.all(confirmed), 30, "the short strings");
    check(JSON.stringify(mine.sas.decimal) === JSON.stringify(theirs.sas.decimal), "both show the same numbers");
    await Promise.all([mine.confirm(), theirs.confirm()]);
    for (const side of [request, received]) {
        await one.wait(() => side.phase === 6 /* done */, "the end of the verification");
    }
    const status = await one.client.getCrypto().getDeviceVerificationStatus(one.userId, two.client.getDeviceId());
    check(status.localVerified, "the device is verified");
}

async function logout(room, laptop, phone, bobLaptop, bobPhone) {
    const bob = bobPhone.userId;
    const gone = bobPhone.client.getDeviceId();
    bobPhone.stop();
    await bobPhone.client.logout(true);
    await laptop.wait(async () => {
        const known = await laptop.client.getCrypto().getUserDeviceInfo([bob], true);
        return known.get(bob) !== undefined && !known.get(bob).has(gone);
    }, "the device list without the logged-out device");
    const id = await laptop.text(room, "after the logout");
    for (const device of [phone, bobLaptop]) {
        await device.event(room, id, "the message after the logout");
    }
    check(!bobPhone.copies.has(id), "the logged-out device got nothing");
}

async function goings(room, laptop, bobLaptop) {
    const bob = bobLaptop.userId;
    const mine = () => bobLaptop.room(room)?.getMyMembership();
    await laptop.client.kick(room, bob, "out");
    await bobLaptop.wait(() => mine() === "leave", "the kick");
    await laptop.client.invite(room, bob);
    await bobLaptop.wait(() => mine() === "invite", "the invitation");
    await bobLaptop.client.leave(room);
    await bobLaptop.wait(() => mine() === "leave", "the rejection");
    await laptop.wait(() => laptop.room(room).getMember(bob).membership === "leave", "the rejection");
    await laptop.client.invite(room, bob);
    await bobLaptop.wait(() => mine() === "invite", "the second invitation");
    await bobLaptop.client.joinRoom(room);
    await laptop.wait(() => laptop.room(room).getMember(bob).membership === "join", "the join");
    await bobLaptop.client.leave(room);
    await laptop.wait(() => laptop.room(room).getMember(bob).membership === "leave", "the leave");
}

function within(promise, seconds, what) {
    const late = new Promise((_, fail) => setTimeout(() => fail(new Error(`${what} took too long`)), seconds * 1000));
    return Promise.race([promise, late]);
}
