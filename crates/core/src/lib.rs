//! Domain types, errors and the traits Array, Transport and DeviceManager.
