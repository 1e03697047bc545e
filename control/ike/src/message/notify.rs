//! The numbers of notifications, and the words for those that people see (RFC 7296 section 3.10.1, RFC 7383, RFC 9242, RFC 9611).

/// Errors are below this number, status messages from it on.
pub(crate) const FIRST_STATUS: u16 = 16_384;

pub(crate) const UNSUPPORTED_CRITICAL_PAYLOAD: u16 = 1;
pub(crate) const INVALID_MAJOR_VERSION: u16 = 5;
pub(crate) const INVALID_SYNTAX: u16 = 7;
pub(crate) const NO_PROPOSAL_CHOSEN: u16 = 14;
pub(crate) const INVALID_KE_PAYLOAD: u16 = 17;
pub(crate) const AUTHENTICATION_FAILED: u16 = 24;
pub(crate) const NO_ADDITIONAL_SAS: u16 = 35;
pub(crate) const TS_UNACCEPTABLE: u16 = 38;
pub(crate) const TEMPORARY_FAILURE: u16 = 43;
pub(crate) const CHILD_SA_NOT_FOUND: u16 = 44;
pub(crate) const TS_MAX_QUEUE: u16 = 48;

pub(crate) const INITIAL_CONTACT: u16 = 16_384;
pub(crate) const NAT_DETECTION_SOURCE_IP: u16 = 16_388;
pub(crate) const NAT_DETECTION_DESTINATION_IP: u16 = 16_389;
pub(crate) const COOKIE: u16 = 16_390;
pub(crate) const REKEY_SA: u16 = 16_393;
pub(crate) const ESP_TFC_PADDING_NOT_SUPPORTED: u16 = 16_394;
pub(crate) const IKEV2_FRAGMENTATION_SUPPORTED: u16 = 16_430;
pub(crate) const INTERMEDIATE_EXCHANGE_SUPPORTED: u16 = 16_438;
pub(crate) const SA_RESOURCE_INFO: u16 = 16_444;

/// An error's name as the RFC writes it, or its number.
pub(crate) fn name(kind: u16) -> String {
    let known = match kind {
        UNSUPPORTED_CRITICAL_PAYLOAD => "UNSUPPORTED_CRITICAL_PAYLOAD",
        4 => "INVALID_IKE_SPI",
        INVALID_MAJOR_VERSION => "INVALID_MAJOR_VERSION",
        INVALID_SYNTAX => "INVALID_SYNTAX",
        9 => "INVALID_MESSAGE_ID",
        11 => "INVALID_SPI",
        NO_PROPOSAL_CHOSEN => "NO_PROPOSAL_CHOSEN",
        INVALID_KE_PAYLOAD => "INVALID_KE_PAYLOAD",
        AUTHENTICATION_FAILED => "AUTHENTICATION_FAILED",
        34 => "SINGLE_PAIR_REQUIRED",
        NO_ADDITIONAL_SAS => "NO_ADDITIONAL_SAS",
        36 => "INTERNAL_ADDRESS_FAILURE",
        37 => "FAILED_CP_REQUIRED",
        TS_UNACCEPTABLE => "TS_UNACCEPTABLE",
        39 => "INVALID_SELECTORS",
        TEMPORARY_FAILURE => "TEMPORARY_FAILURE",
        CHILD_SA_NOT_FOUND => "CHILD_SA_NOT_FOUND",
        TS_MAX_QUEUE => "TS_MAX_QUEUE",
        other => return format!("error {other}"),
    };
    known.to_owned()
}
