//! The machine in virtual time, against models of a proxy, its phones and a media agent that object to illegal requests.

mod changes;
mod faults;
mod races;
mod random;
mod rig;
mod sim;
mod snapshots;
mod talk;
