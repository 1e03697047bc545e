//! Landlock: no file, no TCP port, no abstract Unix socket and no process outside can be reached, whatever the system call and
//! also through a ring. Nothing is exempt: what the engine uses was open before.

use landlock::{ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, Ruleset, RulesetAttr, RulesetError, Scope};
use penstock_uapi::reply::protection;

/// The newest ABI whose rights are all denied. A kernel that has fewer denies those that it has.
const NEWEST: ABI = ABI::V7;

/// Denies this thread, and those it will make, all that this kernel's Landlock knows. Gives the protections that are in force and the
/// kernel's ABI; nothing and 0 where there is no Landlock.
pub(super) fn deny_everything() -> Result<(u16, u8), RulesetError> {
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::BestEffort);
    let ruleset = ruleset.handle_access(AccessFs::from_all(NEWEST))?.handle_access(AccessNet::from_all(NEWEST))?;
    let status = ruleset.scope(Scope::from_all(NEWEST))?.create()?.restrict_self()?;
    let LandlockStatus::Available { effective_abi, kernel_abi } = status.landlock else { return Ok((0, 0)) };
    let abi = kernel_abi.unwrap_or(effective_abi as i32);
    Ok((protections(abi), u8::try_from(abi).unwrap_or(u8::MAX)))
}

/// What an ABI can deny (Documentation/userspace-api/landlock.rst).
fn protections(abi: i32) -> u16 {
    let from = |least, bit| if abi >= least { bit } else { 0 };
    from(1, protection::FILES) | from(4, protection::PORTS) | from(6, protection::SIGNALS)
}

#[cfg(test)]
mod tests {
    use super::{protection, protections};

    #[test]
    fn an_older_kernel_protects_less_and_says_so() {
        assert_eq!(protections(3), protection::FILES);
        assert_eq!(protections(4), protection::FILES | protection::PORTS);
        assert_eq!(protections(7), protection::FILES | protection::PORTS | protection::SIGNALS);
    }
}
