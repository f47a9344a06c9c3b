//! The lab: a throw-away virtual machine in which the product drives the real tools of Linux against arrays whose data
//! plane is the kernel's own targets. The program `lab` works outside of the machine, `sanbridge-lab-guest` inside.

pub mod guest;
pub mod outside;
pub mod scenarios;
pub mod verdict;
