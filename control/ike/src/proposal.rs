//! Security association payloads (RFC 7296 section 3.3): what each side offers, what is chosen, and why nothing was.
//!
//! An offer of ours has alternatives per transform type, in our order of preference; ciphers that need an integrity algorithm
//! stand in a proposal of their own (RFC 5282 section 8). Choosing is the same walk for IKE and ESP; a refusal shows both offers
//! side by side and the first difference.

use crate::config::{Group, IkeSuite, Suite};
use crate::crypto::{Algorithms, Integrity, ML_KEM_768_NUMBER, Prf};
use crate::message::{Malformed, array, take, word};

mod names;

/// More proposals, or transforms in one of them, than any peer sends are refused.
const PROPOSALS_MAX: usize = 64;
const TRANSFORMS_MAX: usize = 128;

/// Protocols (section 3.3.1).
pub(crate) mod protocol {
    pub(crate) const IKE: u8 = 1;
    pub(crate) const ESP: u8 = 3;
}

/// Transform types (section 3.3.2).
pub(crate) mod kind {
    pub(crate) const ENCR: u8 = 1;
    pub(crate) const PRF: u8 = 2;
    pub(crate) const INTEG: u8 = 3;
    pub(crate) const KE: u8 = 4;
    pub(crate) const ESN: u8 = 5;
    /// The first of seven additional key exchanges (RFC 9370 section 2.2.1).
    pub(crate) const ADDKE_1: u8 = 6;
    pub(crate) const ADDKE_7: u8 = 12;
}

const ENCR_AES_CBC: u16 = 12;
const ENCR_AES_GCM_16: u16 = 20;
/// The attribute "key length" in the short form (section 3.3.5).
const KEY_LENGTH: u16 = 0x8000 | 14;

/// One transform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transform {
    pub(crate) kind: u8,
    pub(crate) id: u16,
    pub(crate) key_bits: Option<u16>,
    /// It carries an attribute that we do not know, and so can never be chosen (section 3.3.6).
    strange: bool,
}

impl Transform {
    fn new(kind: u8, id: u16) -> Self {
        Self { kind, id, key_bits: None, strange: false }
    }

    fn cipher(suite: Suite) -> Self {
        let key_bits = match suite {
            Suite::Aes128Gcm16 => 128,
            Suite::Aes256Gcm16 => 256,
        };
        Self { key_bits: Some(key_bits), ..Self::new(kind::ENCR, ENCR_AES_GCM_16) }
    }

    fn ike_cipher(suite: IkeSuite) -> Self {
        let id = if suite.aead() { ENCR_AES_GCM_16 } else { ENCR_AES_CBC };
        Self { key_bits: Some(suite.key_bits()), ..Self::new(kind::ENCR, id) }
    }

    fn prf(prf: Prf) -> Self {
        let id = match prf {
            Prf::Sha256 => 5,
            Prf::Sha384 => 6,
            Prf::Sha512 => 7,
        };
        Self::new(kind::PRF, id)
    }

    fn integrity(integrity: Integrity) -> Self {
        let id = match integrity.0 {
            Prf::Sha256 => 12,
            Prf::Sha384 => 13,
            Prf::Sha512 => 14,
        };
        Self::new(kind::INTEG, id)
    }
}

/// One proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Proposal {
    pub(crate) number: u8,
    pub(crate) protocol: u8,
    pub(crate) spi: Vec<u8>,
    pub(crate) transforms: Vec<Transform>,
}

impl Group {
    /// The number on the wire.
    pub(crate) fn number(self) -> u16 {
        match self {
            Self::P256 => 19,
            Self::P384 => 20,
            Self::X25519 => 31,
        }
    }

    pub(crate) fn from_number(number: u16) -> Option<Self> {
        [Self::X25519, Self::P256, Self::P384].into_iter().find(|group| group.number() == number)
    }
}

impl Proposal {
    /// What we offer and allow for an IKE SA: one proposal for ciphers of each sort, that of the first cipher in front.
    pub(crate) fn ike(suites: &[IkeSuite], groups: &[Group]) -> Vec<Self> {
        let first = suites.first().is_none_or(|suite| suite.aead());
        let sorts = [first, !first].into_iter().filter(|aead| suites.iter().any(|suite| suite.aead() == *aead));
        let proposals = (1..).zip(sorts).map(|(number, aead)| {
            let ciphers = suites.iter().filter(|suite| suite.aead() == aead).map(|suite| Transform::ike_cipher(*suite));
            let integrity = Integrity::ALL.into_iter().filter(|_| !aead).map(Transform::integrity);
            let groups = groups.iter().map(|group| Transform::new(kind::KE, group.number()));
            let transforms = ciphers.chain(Prf::ALL.map(Transform::prf)).chain(integrity).chain(groups).collect();
            Self { number, protocol: protocol::IKE, spi: Vec::new(), transforms }
        });
        proposals.collect()
    }

    /// The same, and in front of it all that with ML-KEM-768 as a second key exchange: a peer that does not know it cannot choose
    /// that, and has the rest (RFC 9370 section 2.2.1).
    pub(crate) fn ike_mixed(suites: &[IkeSuite], groups: &[Group], ml_kem: bool) -> Vec<Self> {
        let plain = Self::ike(suites, groups);
        let mut mixed = if ml_kem { plain.clone() } else { Vec::new() };
        mixed.iter_mut().for_each(|proposal| proposal.transforms.push(Transform::new(kind::ADDKE_1, ML_KEM_768_NUMBER)));
        let numbered = (1..).zip(mixed.into_iter().chain(plain));
        numbered.map(|(number, proposal)| Self { number, ..proposal }).collect()
    }

    /// What we offer and allow for a child: ESN before no ESN.
    pub(crate) fn esp(suites: &[Suite], spi: u32) -> Self {
        let mut transforms: Vec<_> = suites.iter().map(|suite| Transform::cipher(*suite)).collect();
        transforms.extend([Transform::new(kind::ESN, 1), Transform::new(kind::ESN, 0)]);
        Self { number: 1, protocol: protocol::ESP, spi: spi.to_be_bytes().to_vec(), transforms }
    }

    /// The same with a fresh key exchange in one of these groups; without any of them, as it is.
    pub(crate) fn with_groups(mut self, groups: &[Group]) -> Self {
        self.transforms.extend(groups.iter().map(|group| Transform::new(kind::KE, group.number())));
        self
    }

    fn kinds(&self) -> Vec<u8> {
        let mut kinds: Vec<u8> = self.transforms.iter().map(|transform| transform.kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    }

    fn of_kind(&self, kind: u8) -> impl Iterator<Item = &Transform> {
        self.transforms.iter().filter(move |transform| transform.kind == kind)
    }

    /// Whether `answer` is one transform of each type out of this offer (section 2.7).
    pub(crate) fn allows(&self, answer: &Self) -> bool {
        let single = answer.kinds().len() == answer.transforms.len();
        let known = |transform: &Transform| self.transforms.contains(transform) || none(transform);
        let complete = self.kinds().iter().all(|kind| answer.of_kind(*kind).next().is_some());
        answer.protocol == self.protocol && answer.number == self.number && single && complete && answer.transforms.iter().all(known)
    }

    /// The cipher of a chosen proposal.
    pub(crate) fn suite(&self) -> Option<Suite> {
        let chosen = self.of_kind(kind::ENCR).next()?;
        [Suite::Aes256Gcm16, Suite::Aes128Gcm16].into_iter().find(|suite| Transform::cipher(*suite) == *chosen)
    }

    /// What a chosen proposal for an IKE SA says beside the group.
    pub(crate) fn algorithms(&self) -> Option<Algorithms> {
        use IkeSuite::{Aes128Cbc, Aes128Gcm16, Aes256Cbc, Aes256Gcm16};
        let (cipher, prf) = (self.of_kind(kind::ENCR).next()?, self.of_kind(kind::PRF).next()?);
        let integrity = self.of_kind(kind::INTEG).find(|transform| !none(transform));
        let algorithms = Algorithms {
            cipher: [Aes256Gcm16, Aes128Gcm16, Aes256Cbc, Aes128Cbc].into_iter().find(|suite| Transform::ike_cipher(*suite) == *cipher)?,
            integrity: integrity.and_then(|chosen| Integrity::ALL.into_iter().find(|known| Transform::integrity(*known) == *chosen)),
            prf: Prf::ALL.into_iter().find(|known| Transform::prf(*known) == *prf)?,
        };
        (algorithms.cipher.aead() == algorithms.integrity.is_none()).then_some(algorithms)
    }

    /// Whether a chosen proposal has a second key exchange.
    pub(crate) fn mixed(&self) -> bool {
        self.of_kind(kind::ADDKE_1).any(|transform| !none(transform))
    }

    /// The group of a chosen proposal.
    pub(crate) fn group(&self) -> Option<Group> {
        self.of_kind(kind::KE).next().and_then(|transform| Group::from_number(transform.id))
    }

    /// Whether a chosen proposal has extended sequence numbers.
    pub(crate) fn esn(&self) -> bool {
        self.of_kind(kind::ESN).any(|transform| transform.id == 1)
    }

    /// The SPI of a proposal to rekey an IKE SA. `None` for one that is none (RFC 7296 section 3.1: never zero).
    pub(crate) fn ike_spi(&self) -> Option<u64> {
        let spi = u64::from_be_bytes(self.spi.as_slice().try_into().ok()?);
        (spi != 0).then_some(spi)
    }

    /// The SPI of a child's proposal. `None` for a reserved one (RFC 4303 section 2.1).
    pub(crate) fn child_spi(&self) -> Option<u32> {
        let spi = u32::from_be_bytes(self.spi.as_slice().try_into().ok()?);
        (spi > 255).then_some(spi)
    }
}

/// "NONE" of a type that an AEAD, a child without its own key exchange, or a single key exchange does not need.
fn none(transform: &Transform) -> bool {
    matches!(transform.kind, kind::INTEG | kind::KE | kind::ADDKE_1..=kind::ADDKE_7) && transform.id == 0 && !transform.strange
}

/// Chooses from `theirs` by `own` preference: for the first of ours the first of theirs that has all we need, with one transform
/// a type and their number and SPI.
pub(crate) fn choose(own: &[Proposal], theirs: &[Proposal]) -> Result<Proposal, String> {
    let fit = |own: &Proposal| theirs.iter().filter(|offer| offer.protocol == own.protocol).find_map(|offer| pick(own, offer).ok());
    own.iter().find_map(fit).ok_or_else(|| explain(own, theirs))
}

/// One transform a type out of `offer`, or the first type in which nothing is common.
fn pick(own: &Proposal, offer: &Proposal) -> Result<Proposal, u8> {
    let mut transforms = Vec::new();
    for kind in own.kinds() {
        let common = own.of_kind(kind).find(|transform| offer.transforms.contains(transform));
        transforms.push(*common.ok_or(kind)?);
    }
    for kind in offer.kinds().into_iter().filter(|kind| own.of_kind(*kind).next().is_none()) {
        transforms.push(*offer.of_kind(kind).find(|transform| none(transform)).ok_or(kind)?);
    }
    Ok(Proposal { transforms, ..offer.clone() })
}

/// Both offers and the first difference, on one line.
fn explain(own: &[Proposal], theirs: &[Proposal]) -> String {
    let protocol = own.first().map_or(protocol::IKE, |own| own.protocol);
    let same: Vec<Proposal> = theirs.iter().filter(|offer| offer.protocol == protocol).cloned().collect();
    // The two that agree for longest tell most.
    let pairs = own.iter().flat_map(|own| same.iter().map(move |offer| (own, offer)));
    let nearest = pairs.filter_map(|(own, offer)| pick(own, offer).err().map(|kind| (kind, own, offer)));
    // Of several that are as near, the first.
    let difference = match nearest.rev().max_by_key(|(kind, ..)| *kind) {
        None => format!("no proposal for {}", names::protocol(protocol)),
        Some((kind, own, offer)) => {
            // Who offers nothing better has to: nobody should settle for it.
            let weak = offer.of_kind(kind).next().is_some() && offer.of_kind(kind).all(names::weak);
            let remark = if weak { ", which is too weak" } else { "" };
            format!("{}: ours {}, theirs {}{remark}", names::kind(kind), names::list(own.of_kind(kind)), names::list(offer.of_kind(kind)))
        }
    };
    format!("ours [{}], theirs [{}]; first difference: {difference}", describe(own), describe(&same))
}

/// An offer with all its alternatives, type by type.
pub(crate) fn describe(offer: &[Proposal]) -> String {
    let one =
        |proposal: &Proposal| proposal.kinds().into_iter().map(|kind| names::list(proposal.of_kind(kind))).collect::<Vec<_>>().join(" + ");
    offer.iter().take(4).map(one).collect::<Vec<_>>().join(" or ")
}

/// Which of our proposals a single chosen one comes from, if it is one transform of each type out of it.
pub(crate) fn chosen_from<'a>(offer: &[Proposal], answer: &'a [Proposal]) -> Option<&'a Proposal> {
    let [answer] = answer else { return None };
    offer.iter().any(|own| own.allows(answer)).then_some(answer)
}

/// Reads a payload's body.
pub(crate) fn parse(mut body: &[u8]) -> Result<Vec<Proposal>, Malformed> {
    const CUT: &str = "a proposal cut short";
    let mut proposals = Vec::new();
    loop {
        let [more, _] = array(&mut body, CUT)?;
        let length = usize::from(word(&mut body, CUT)?).checked_sub(4).ok_or(Malformed(CUT))?;
        let mut rest = take(&mut body, length, CUT)?;
        let [number, protocol, spi_bytes, count] = array(&mut rest, CUT)?;
        let spi = take(&mut rest, usize::from(spi_bytes), CUT)?.to_vec();
        let mut transforms = Vec::new();
        while !rest.is_empty() {
            transforms.push(parse_transform(&mut rest)?);
        }
        if transforms.len() != usize::from(count) || transforms.len() > TRANSFORMS_MAX {
            return Err(Malformed("a proposal whose transforms are not as many as it says"));
        }
        proposals.push(Proposal { number, protocol, spi, transforms });
        match (more, body.is_empty()) {
            (0, true) => return Ok(proposals),
            (2, false) if proposals.len() < PROPOSALS_MAX => {}
            _ => return Err(Malformed("the last proposal is not the last")),
        }
    }
}

fn parse_transform(rest: &mut &[u8]) -> Result<Transform, Malformed> {
    const CUT: &str = "a transform cut short";
    let [_more, _] = array(rest, CUT)?;
    let length = usize::from(word(rest, CUT)?).checked_sub(4).ok_or(Malformed(CUT))?;
    let mut body = take(rest, length, CUT)?;
    let [kind, _] = array(&mut body, CUT)?;
    let mut transform = Transform::new(kind, word(&mut body, CUT)?);
    while !body.is_empty() {
        let (attribute, value) = (word(&mut body, CUT)?, word(&mut body, CUT)?);
        if attribute == KEY_LENGTH && transform.key_bits.is_none() {
            transform.key_bits = Some(value);
            continue;
        }
        transform.strange = true;
        if attribute & 0x8000 == 0 {
            take(&mut body, usize::from(value), CUT)?; // the long form: the second word is a length
        }
    }
    Ok(transform)
}

/// Writes a payload's body with one proposal.
pub(crate) fn write(proposal: &Proposal) -> Vec<u8> {
    write_all(std::slice::from_ref(proposal))
}

/// Writes a payload's body.
pub(crate) fn write_all(offer: &[Proposal]) -> Vec<u8> {
    let mut body = Vec::new();
    for (index, proposal) in offer.iter().enumerate() {
        body.extend_from_slice(&[if index + 1 == offer.len() { 0 } else { 2 }, 0]);
        write_one(proposal, &mut body);
    }
    body
}

fn write_one(proposal: &Proposal, body: &mut Vec<u8>) {
    let mut transforms = Vec::new();
    for (index, transform) in proposal.transforms.iter().enumerate() {
        let last = index + 1 == proposal.transforms.len();
        let length: u8 = if transform.key_bits.is_some() { 12 } else { 8 };
        transforms.extend_from_slice(&[if last { 0 } else { 3 }, 0, 0, length, transform.kind, 0]);
        transforms.extend_from_slice(&transform.id.to_be_bytes());
        if let Some(bits) = transform.key_bits {
            transforms.extend_from_slice(&KEY_LENGTH.to_be_bytes());
            transforms.extend_from_slice(&bits.to_be_bytes());
        }
    }
    let small = |length: usize| u8::try_from(length).unwrap_or(u8::MAX);
    let length = u16::try_from(8 + proposal.spi.len() + transforms.len()).unwrap_or(u16::MAX);
    body.extend_from_slice(&length.to_be_bytes());
    body.extend_from_slice(&[proposal.number, proposal.protocol, small(proposal.spi.len()), small(proposal.transforms.len())]);
    body.extend_from_slice(&proposal.spi);
    body.extend_from_slice(&transforms);
}

#[cfg(test)]
mod tests;
