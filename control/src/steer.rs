//! Which socket of the reuseport group a datagram goes to: a classic BPF program that reads the first word, because
//! our SPIs name their core (see [`penstock_uapi::Spi`]) and no table is needed.
//!
//! The members stand in the order in which they joined: control's IKE socket first, then core 0 to n-1.
//! ```text
//!   shorter than 8 bytes (keepalive), or first word 0 (IKE) ──► member 0: control
//!   any other ──► member (entrance of the SPI modulo n) + 1: the core
//! ```

use libc::{
    BPF_A, BPF_ABS, BPF_ADD, BPF_ALU, BPF_AND, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_LEN, BPF_MOD, BPF_RET, BPF_RSH,
    BPF_W,
};
use penstock_uapi::Spi;

use crate::sys::Instruction;

fn instruction(code: u32, yes: u8, no: u8, k: u32) -> Instruction {
    Instruction { code: code as u16, jt: yes, jf: no, k }
}

/// The program for `cores` cores. The kernel runs it with the data at the UDP payload
/// (`net/core/sock_reuseport.c`, `run_bpf_filter` pulls the UDP header first).
pub(crate) fn program(cores: u16) -> Vec<Instruction> {
    vec![
        instruction(BPF_LD | BPF_W | BPF_LEN, 0, 0, 0),
        instruction(BPF_JMP | BPF_JGE | BPF_K, 0, 8, 8),
        instruction(BPF_LD | BPF_W | BPF_ABS, 0, 0, 0),
        instruction(BPF_JMP | BPF_JEQ | BPF_K, 6, 0, 0),
        instruction(BPF_JMP | BPF_JSET | BPF_K, 0, 1, Spi::ENTRANCE_BIT),
        instruction(BPF_ALU | BPF_RSH | BPF_K, 0, 0, Spi::ENTRANCE_SHIFT),
        instruction(BPF_ALU | BPF_AND | BPF_K, 0, 0, 0xff),
        instruction(BPF_ALU | BPF_MOD | BPF_K, 0, 0, u32::from(cores.max(1))),
        instruction(BPF_ALU | BPF_ADD | BPF_K, 0, 0, 1),
        instruction(BPF_RET | BPF_A, 0, 0, 0),
        instruction(BPF_RET | BPF_K, 0, 0, 0),
    ]
}
