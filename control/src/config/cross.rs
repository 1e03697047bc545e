//! What no single section can tell: prefixes and identities that meet each other.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Finding, Identity, Interface, Place};

/// What of a peer meets others. It is there even if something else in the peer's section is wrong, so that one run
/// finds both.
pub(super) struct Meeting {
    /// The peer's name.
    pub(super) name: String,
    /// Its prefixes and where they stand.
    pub(super) subnets: Vec<(IpNet, Place)>,
    /// Our prefixes towards it.
    pub(super) local_subnets: Vec<IpNet>,
    /// Our identity and its, where both can be read.
    pub(super) ids: Option<(Identity, Identity)>,
    /// Where its identity stands.
    pub(super) id_place: Place,
    /// The endpoint, if it is an address.
    pub(super) endpoint: Option<IpAddr>,
}

/// Checks the peers against each other and against the interface; gives the notes.
pub(super) fn check(interface: Option<&Interface>, peers: &[Meeting], findings: &mut Vec<Finding>) -> Vec<String> {
    let mut notes = Vec::new();
    for (at, peer) in peers.iter().enumerate() {
        let earlier = peers.get(..at).unwrap_or_default();
        for other in earlier.iter().filter(|other| other.name != peer.name) {
            against_peer(peer, other, findings, &mut notes);
        }
        against_ourselves(peer, interface, findings, &mut notes);
        if let Some(net) = peer.subnets.iter().map(|(net, _)| net).find(|net| peer.endpoint.is_some_and(|endpoint| net.contains(&endpoint)))
        {
            notes.push(format!(
                "{net} of peer {} covers its own endpoint: our encrypted packets are kept out of the tunnel by their mark",
                peer.name
            ));
        }
    }
    notes
}

/// One prefix belongs to one peer; of nested ones the longest match decides. Identities tell peers apart.
fn against_peer(peer: &Meeting, other: &Meeting, findings: &mut Vec<Finding>, notes: &mut Vec<String>) {
    for (net, place) in &peer.subnets {
        for (theirs, first) in &other.subnets {
            if net == theirs {
                let problem = format!("{net} belongs to peer {} already ({}:{})", other.name, first.file.display(), first.line);
                findings.push(place.finding(problem, "leave it with one of them"));
            } else if net.contains(theirs) {
                notes.push(format!("{theirs} goes to peer {}, the rest of {net} to peer {}", other.name, peer.name));
            } else if theirs.contains(net) {
                notes.push(format!("{net} goes to peer {}, the rest of {theirs} to peer {}", peer.name, other.name));
            }
        }
    }
    if peer.ids.is_some() && peer.ids == other.ids {
        let problem = format!("peer {} has the same identities, so an incoming connection could be either", other.name);
        findings.push(peer.id_place.finding(problem, "give each peer a remote_id of its own"));
    }
}

/// A prefix cannot be on both sides. `0.0.0.0/0` and `::/0` can: they say "whatever is routed here".
fn against_ourselves(peer: &Meeting, interface: Option<&Interface>, findings: &mut Vec<Finding>, notes: &mut Vec<String>) {
    let networks = interface
        .into_iter()
        .flat_map(|interface| interface.address.iter().map(|net| (net.trunc(), format!("interface {}", interface.name))));
    let locals = peer.local_subnets.iter().map(|net| (*net, "local_subnets".to_owned()));
    let ours: Vec<(IpNet, String)> = networks.chain(locals).collect();
    for (net, place) in peer.subnets.iter().filter(|(net, _)| net.prefix_len() > 0) {
        if let Some((_, whose)) = ours.iter().find(|(own, _)| own == net) {
            findings.push(place.finding(format!("{net} is on our own side ({whose})"), "name only networks behind the peer"));
        } else if let Some((own, whose)) = ours.iter().find(|(own, _)| own.prefix_len() > 0 && (own.contains(net) || net.contains(own))) {
            notes.push(format!("{net} of peer {} overlaps {own} on our own side ({whose})", peer.name));
        }
    }
}
