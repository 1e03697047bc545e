//! Given two offers, what is chosen, and what a refusal says.

use super::{Proposal, Transform, kind, parse, write};
use crate::config::{Group, IkeSuite, Suite};

const BOTH: [Suite; 2] = [Suite::Aes256Gcm16, Suite::Aes128Gcm16];

fn ike() -> Proposal {
    ike_offer(&IkeSuite::DEFAULT, &[Group::X25519])
}

/// The one proposal of ciphers that authenticate as well.
fn ike_offer(suites: &[IkeSuite], groups: &[Group]) -> Proposal {
    Proposal::ike(suites, groups).remove(0)
}

/// Choosing from one proposal of ours.
fn choose(own: &Proposal, theirs: &[Proposal]) -> Result<Proposal, String> {
    super::choose(std::slice::from_ref(own), theirs)
}

#[test]
fn an_offer_survives_the_wire() {
    for offer in [ike(), Proposal::esp(&BOTH, 0x0102_0304)] {
        assert_eq!(parse(&write(&offer)), Ok(vec![offer]));
    }
}

#[test]
fn the_responders_preference_decides() {
    let theirs = ike_offer(&[IkeSuite::Aes128Gcm16, IkeSuite::Aes256Gcm16], &[Group::P256, Group::X25519]);
    let chosen = choose(&ike(), std::slice::from_ref(&theirs)).expect("common");
    assert_eq!((chosen.algorithms().map(|chosen| chosen.cipher), chosen.group()), (Some(IkeSuite::Aes256Gcm16), Some(Group::X25519)));
    assert!(theirs.allows(&chosen));
}

#[test]
fn esn_is_preferred_and_its_absence_accepted() {
    let own = Proposal::esp(&BOTH, 1000);
    assert!(choose(&own, &[Proposal::esp(&BOTH, 2000)]).expect("common").esn());
    let mut without = Proposal::esp(&BOTH, 2000);
    without.transforms.retain(|transform| transform.kind != kind::ESN || transform.id == 0);
    let chosen = choose(&own, &[without]).expect("common");
    assert!(!chosen.esn());
    assert_eq!(chosen.child_spi(), Some(2000));
}

#[test]
fn the_first_proposal_that_fits_is_taken_with_its_number() {
    let mut weak = ike();
    weak.transforms[0].id = 12;
    weak.transforms.remove(1);
    let mut good = ike();
    good.number = 2;
    assert_eq!(choose(&ike(), &[weak, good]).expect("the second").number, 2);
}

#[test]
fn types_that_we_do_not_know_must_offer_none() {
    // An additional key exchange (RFC 9370) that must be done: not by us.
    let mut theirs = ike();
    theirs.transforms.push(Transform::new(6, 36));
    let reason = choose(&ike(), std::slice::from_ref(&theirs)).expect_err("refused");
    assert!(reason.contains("first difference: additional key exchange: ours none, theirs ML_KEM_768"), "{reason}");
    // Integrity NONE beside an AEAD is harmless (RFC 5282 section 8).
    let mut theirs = ike();
    theirs.transforms.push(Transform::new(kind::INTEG, 0));
    choose(&ike(), &[theirs]).expect("harmless");
}

#[test]
fn a_refusal_shows_both_offers_and_the_first_difference() {
    let mut theirs = ike();
    theirs.transforms.retain(|transform| transform.kind != kind::PRF);
    theirs.transforms.push(Transform::new(kind::PRF, 2));
    let reason = choose(&ike(), &[theirs]).expect_err("refused");
    assert_eq!(
        reason,
        "ours [AES_GCM_16_256/AES_GCM_16_128 + PRF_HMAC_SHA2_256/PRF_HMAC_SHA2_384/PRF_HMAC_SHA2_512 + X25519], \
         theirs [AES_GCM_16_256/AES_GCM_16_128 + PRF_HMAC_SHA1 + X25519]; \
         first difference: PRF: ours PRF_HMAC_SHA2_256/PRF_HMAC_SHA2_384/PRF_HMAC_SHA2_512, theirs PRF_HMAC_SHA1"
    );
}

#[test]
fn an_answer_outside_the_offer_is_not_allowed() {
    let own = ike_offer(&[IkeSuite::Aes256Gcm16], &[Group::X25519]);
    let good = choose(&own, &[ike()]).expect("common");
    assert!(own.allows(&good));
    let with = |change: &dyn Fn(&mut Proposal)| {
        let mut changed = good.clone();
        change(&mut changed);
        own.allows(&changed)
    };
    assert!(!with(&|p| p.transforms[0].key_bits = Some(128)));
    assert!(!with(&|p| p.transforms[0].strange = true));
    assert!(!with(&|p| p.number = 2));
    assert!(!with(&|p| p.protocol = 3));
    assert!(!with(&|p| p.transforms.truncate(1)));
    assert!(!with(&|p| p.transforms.push(p.transforms[0])));
}

#[test]
fn a_transform_with_an_unknown_attribute_is_never_chosen() {
    let mut body = write(&ike_offer(&[IkeSuite::Aes256Gcm16], &[Group::X25519]));
    // The attribute's type stands 8 (proposal) + 8 (transform) octets in.
    body[17] = 15;
    choose(&ike(), &parse(&body).expect("well formed")).expect_err("not understood");
}

#[test]
fn reserved_spis_are_refused() {
    assert_eq!(Proposal::esp(&BOTH, 255).child_spi(), None);
    assert_eq!(Proposal::esp(&BOTH, 256).child_spi(), Some(256));
    assert_eq!(ike().child_spi(), None);
}

#[test]
fn lengths_are_checked() {
    let good = write(&Proposal::esp(&BOTH, 1000));
    for length in 0..good.len() {
        assert!(parse(&good[..length]).is_err(), "{length}");
    }
    for (at, what) in [(0, "more"), (3, "length"), (6, "SPI size"), (7, "transforms"), (15, "transform length")] {
        let mut bad = good.clone();
        bad[at] = bad[at].wrapping_add(1);
        assert!(parse(&bad).is_err(), "{what}");
    }
}
