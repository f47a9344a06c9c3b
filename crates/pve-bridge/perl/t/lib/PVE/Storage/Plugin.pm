package PVE::Storage::Plugin;

# Stand-in for PVE's base class in our tests: the methods a plugin inherits, each of which fails the test that reaches
# it.

use strict;
use warnings;

our @SHARED_STORAGE = ('nfs');

# Every method of the base class of API 15 that takes a storage or a volume.
our @METHODS = qw(
    activate_storage activate_volume alloc_image check_connection clone_image cluster_lock_storage create_base deactivate_storage
    deactivate_volume filesystem_path find_free_diskname free_image get_formats get_identity get_subdir
    get_volume_attribute get_volume_notes list_images list_volumes map_volume new_backup_provider on_add_hook
    on_delete_hook on_update_hook on_update_hook_full parse_volname path prune_backups qemu_blockdev_options
    rename_snapshot rename_volume status storage_can_replicate unmap_volume update_volume_attribute
    update_volume_notes volume_export volume_export_formats volume_has_feature volume_import
    volume_import_formats volume_qemu_snapshot_method volume_resize volume_rollback_is_possible
    volume_size_info volume_snapshot volume_snapshot_delete volume_snapshot_info
    volume_snapshot_needs_fsfreeze volume_snapshot_rollback
);

for my $method (@METHODS) {
    no strict 'refs';
    *{$method} = sub { die "base class method $method reached\n" };
}

1;
