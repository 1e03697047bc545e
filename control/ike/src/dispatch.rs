//! A datagram's way to its IKE SA: version, exchange, window, decryption, and only then its content.
//!
//! Nothing is kept about a sender before it has shown a valid first message, and nothing is believed before it is
//! decrypted. Answers to unproven addresses are never larger than what asked for them.

use std::net::SocketAddr;

use crate::Ike;
use crate::crypto::sha256;
use crate::error::Fault;
use crate::exchange::{Came, End, auth, create, informational, init, intermediate};
use crate::fragment::Opened;
use crate::half_open::{FIRST_MESSAGE_BYTES_MAX, Room};
use crate::message::{Chain, Header, Payloads, exchange, notify};
use crate::output::Host;
use crate::proposal::protocol;
use crate::retransmit::Purpose;
use crate::sa::{Stage, plain};

impl Ike {
    pub(crate) fn dispatch(&mut self, now: u64, from: SocketAddr, to: SocketAddr, message: &[u8], host: &mut dyn Host) {
        let Ok((header, body)) = Header::parse(message) else { return };
        let way = Way { came: Came { header, from, to }, message };
        // RFC 7296 section 2.5: a higher major version is answered with ours, in the clear.
        if header.major > 2 && !header.response {
            self.refuse(&way, notify::INVALID_MAJOR_VERSION, &[]);
        }
        if header.major != 2 {
            return;
        }
        match (header.exchange, header.response) {
            (exchange::INIT, false) => self.init_request(now, &way, body, host),
            (exchange::INIT, true) => self.init_response(now, &way, host),
            (_, false) => self.protected_request(now, &way, host),
            (_, true) => self.protected_response(now, &way, host),
        }
    }

    /// Answers without protection and without keeping anything; never with more bytes than came.
    fn refuse(&mut self, way: &Way<'_>, kind: u16, data: &[u8]) {
        let message = plain(&way.came.header.answer(way.came.header.spi_r), Chain::default().notify(kind, data));
        if message.len() <= way.message.len() {
            self.cx.send(way.came.to, way.came.from, message);
        }
    }

    fn init_request(&mut self, now: u64, way: &Way<'_>, body: &[u8], host: &mut dyn Host) {
        let header = way.came.header;
        if !header.initiator || header.id != 0 || header.spi_r != 0 || way.message.len() > FIRST_MESSAGE_BYTES_MAX {
            return;
        }
        let first = (way.came.from, sha256(way.message));
        if let Some(spi) = self.firsts.get(&first) {
            // Section 2.1: a repetition is answered with the same response; once IKE_AUTH has come it is only late.
            if let Some(Stage::HalfOpen(half)) = self.sas.get(spi).map(|sa| &sa.stage) {
                self.cx.send(way.came.to, way.came.from, half.response.clone());
            }
            return;
        }
        let Ok(payloads) = Payloads::parse(header.next, body) else { return };
        if let Some(kind) = payloads.unknown_critical {
            return self.refuse(way, notify::UNSUPPORTED_CRITICAL_PAYLOAD, &[kind]);
        }
        let Some(nonce) = payloads.nonce else { return };
        let address = way.came.from.ip();
        let shown = payloads.notify(notify::COOKIE).map(|cookie| cookie.data);
        let proven = shown.is_some_and(|cookie| self.cookies.valid(now, cookie, nonce, address, header.spi_i, host));
        if !proven && self.half_opens.crowded(address, self.cx.config.cookie_over_half_open) {
            return self.ask_for_cookie(now, way, nonce, host);
        }
        // Before the key exchange, which costs. It comes again, with its cookie.
        let room = self.half_opens.room(now, address, proven);
        if room == Room::Full {
            return;
        }
        let choice = match init::choose(&mut self.cx, &way.came, &payloads) {
            Ok(choice) => choice,
            Err(init::Refusal::Ignore) => return,
            Err(init::Refusal::Notify(kind, data, text)) => {
                text.into_iter().for_each(|text| self.cx.stranger(now, text));
                return self.refuse(way, kind, &data);
            }
        };
        // Nobody gets more octets than he sent before he has shown that they reach him.
        if !proven && choice.answer_octets(&self.cx, &way.came) > way.message.len() {
            return self.ask_for_cookie(now, way, nonce, host);
        }
        let spi = self.fresh_spi(host);
        let Some((mut sa, response)) = choice.open(&mut self.cx, now, spi, (&way.came, &payloads, way.message), host) else { return };
        if let Room::InsteadOf(other) = room {
            self.remove(now, other, None);
        }
        self.half_opens.add(now, spi, address, proven);
        sa.first = Some(first);
        self.firsts.insert(first, spi);
        self.sas.insert(spi, sa);
        self.cx.send(way.came.to, way.came.from, response);
    }

    fn ask_for_cookie(&mut self, now: u64, way: &Way<'_>, nonce: &[u8], host: &mut dyn Host) {
        let cookie = self.cookies.bake(now, nonce, way.came.from.ip(), way.came.header.spi_i, host);
        self.refuse(way, notify::COOKIE, &cookie);
    }

    fn init_response(&mut self, now: u64, way: &Way<'_>, host: &mut dyn Host) {
        let spi = way.came.header.spi_i;
        let Some(sa) = self.sas.get_mut(&spi).filter(|sa| sa.initiator) else { return };
        let next = init::on_response(&mut self.cx, now, sa, &way.came, way.message, host);
        let result = match next {
            init::Next::Wait => return,
            init::Next::Authenticate(response) => auth::prepare(&mut self.cx, now, sa, response, host),
            init::Next::Mix(response) => intermediate::request(&mut self.cx, now, sa, response),
        };
        result.err().into_iter().for_each(|end| self.end(now, spi, end));
    }

    /// Our SPI, if the message can belong to one of our IKE SAs.
    fn find(&self, header: &Header) -> Option<u64> {
        let (ours, theirs) = if header.initiator { (header.spi_r, header.spi_i) } else { (header.spi_i, header.spi_r) };
        let sa = self.sas.get(&ours)?;
        (sa.initiator != header.initiator && sa.remote_spi == theirs).then_some(ours)
    }

    fn protected_request(&mut self, now: u64, way: &Way<'_>, host: &mut dyn Host) {
        let Some(spi) = self.find(&way.came.header) else { return };
        let Some(sa) = self.sas.get_mut(&spi) else { return };
        if way.came.header.id.checked_add(1) == Some(sa.replies.expected) {
            let again = sa.repeated(&way.came.header, way.message).unwrap_or_default();
            again.iter().for_each(|datagram| self.cx.send(way.came.to, way.came.from, datagram.clone()));
            return;
        }
        let ready = match &sa.stage {
            Stage::HalfOpen(half) => way.came.header.exchange == if half.mixing { exchange::INTERMEDIATE } else { exchange::AUTH },
            // Until our first child is in use we do not answer: an answer tells the peer that it is.
            Stage::Established => !sa.initiator || sa.confirmed,
            Stage::Leaving | Stage::Replaced => true,
            _ => false,
        };
        if way.came.header.id != sa.replies.expected || !ready {
            return;
        }
        let Some(opened) = sa.open(&way.came.header, way.message) else { return };
        sa.accept_request(opened.digest);
        // With a window of one it has the answers to all that it asked before.
        sa.children.values_mut().for_each(|child| child.unheard_until = None);
        sa.heard = now;
        let Ok(payloads) = Payloads::parse(opened.first, &opened.inner) else {
            sa.reply(&mut self.cx, &way.came, Chain::default().notify(notify::INVALID_SYNTAX, &[]));
            return self.end(now, spi, End::Drop(Fault::Misbehaved("a message that cannot be read".to_owned())));
        };
        if let Some(kind) = payloads.unknown_critical {
            let mut chain = Chain::default();
            sa.reply(&mut self.cx, &way.came, chain.notify(notify::UNSUPPORTED_CRITICAL_PAYLOAD, &[kind]));
            if matches!(sa.stage, Stage::HalfOpen(_)) {
                sa.stage = Stage::Refused;
            }
            return;
        }
        self.came(now, spi, &way.came, &payloads, true);
        self.request(now, spi, way, (&opened, &payloads), host);
        self.after(now, spi);
    }

    /// A request that is from the peer and well formed.
    fn request(&mut self, now: u64, spi: u64, way: &Way<'_>, (opened, payloads): (&Opened, &Payloads<'_>), host: &mut dyn Host) {
        let Some(sa) = self.sas.get_mut(&spi) else { return };
        let cx = &mut self.cx;
        match (way.came.header.exchange, &sa.stage) {
            (exchange::INTERMEDIATE, Stage::HalfOpen(_)) => intermediate::on_request(cx, sa, &way.came, opened, payloads),
            (exchange::AUTH, Stage::HalfOpen(_)) => {
                let authentic = auth::on_request(cx, now, sa, &way.came, payloads, &self.decoy, host);
                if let auth::Authentic::Yes { initial_contact } = authentic {
                    self.half_opens.forget(spi);
                    let done = sa.live();
                    if initial_contact {
                        self.supersede(now, spi);
                    }
                    if done {
                        self.established(now, spi);
                    }
                }
            }
            (exchange::CREATE_CHILD, _)
                if payloads.sa.is_some() && payloads.ts_i.is_none() && payloads.notify(notify::REKEY_SA).is_none() =>
            {
                sa.confirmed = true;
                self.used(now, spi);
                self.renewal_asked(now, spi, &way.came, payloads, host);
            }
            (exchange::CREATE_CHILD, _) => {
                sa.confirmed = true;
                self.used(now, spi);
                let Some(sa) = self.sas.get_mut(&spi) else { return };
                let cx = &mut self.cx;
                create::on_request(cx, now, sa, &way.came, payloads, host);
            }
            (exchange::INFORMATIONAL, _) => {
                sa.confirmed = true;
                if payloads.deletes.iter().any(|delete| delete.protocol == protocol::IKE) {
                    return self.part(now, spi, &way.came);
                }
                self.used(now, spi);
                let Some(sa) = self.sas.get_mut(&spi) else { return };
                let cx = &mut self.cx;
                match informational::on_request(cx, sa, &way.came, payloads) {
                    Ok(()) => self.childless(now, spi, "deleted the last child"),
                    Err(end) => self.end(now, spi, end),
                }
            }
            _ => sa.reply(cx, &way.came, Chain::default().notify(notify::INVALID_SYNTAX, &[])),
        }
    }

    fn protected_response(&mut self, now: u64, way: &Way<'_>, host: &mut dyn Host) {
        let Some(spi) = self.find(&way.came.header) else { return };
        let Some(sa) = self.sas.get_mut(&spi) else { return };
        if sa.requests.outstanding.as_ref().is_none_or(|request| request.id != way.came.header.id) {
            return;
        }
        let Some(opened) = sa.open(&way.came.header, way.message) else { return };
        let Some(request) = sa.requests.outstanding.take() else { return };
        sa.heard = now;
        let Ok(payloads) = Payloads::parse(opened.first, &opened.inner) else {
            return self.end(now, spi, End::Delete(Fault::Misbehaved("an answer that cannot be read".to_owned())));
        };
        if let Some(kind) = payloads.unknown_critical {
            return self.end(now, spi, End::Delete(Fault::Incompatible(format!("it needs payload {kind}, which we do not know"))));
        }
        sa.confirmed |= !sa.initiator;
        self.came(now, spi, &way.came, &payloads, false);
        let Some(sa) = self.sas.get_mut(&spi) else { return };
        match request.purpose {
            Purpose::Intermediate => {
                let result = intermediate::on_response(&mut self.cx, now, sa, &opened, &payloads, host);
                result.err().into_iter().for_each(|end| self.end(now, spi, end));
            }
            Purpose::Auth => match auth::on_response(&mut self.cx, now, sa, &payloads) {
                Ok(()) => self.established(now, spi),
                Err(end) => self.end(now, spi, end),
            },
            Purpose::CreateChild(id, inbound) => {
                let then = create::on_response(&mut self.cx, now, sa, (id, inbound), &payloads, host);
                self.created(now, spi, then);
            }
            Purpose::DeleteChild(doomed) => {
                sa.deleted(&mut self.cx, &doomed);
                self.childless(now, spi, "has no child left");
            }
            Purpose::RekeyIke => self.renewal_answered(now, spi, &payloads, host),
            Purpose::DeleteIke => self.remove(now, spi, None),
            Purpose::Confirm(asked) => self.confirmed(now, spi, asked, (&way.came, &payloads)),
            Purpose::Init | Purpose::Probe => {}
        }
        self.after(now, spi);
    }
}

/// A message and where it travels.
struct Way<'a> {
    came: Came,
    message: &'a [u8],
}
