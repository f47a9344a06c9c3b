# What each method asks of the daemon and makes of its answer: argument orders, units, contexts.

use strict;
use warnings;

BEGIN {
    my ($dir) = __FILE__ =~ m{\A(.*?)[^/]*\z}s;
    unshift @INC, "${dir}lib", "${dir}..";
}

use JSON::PP ();
use Test::More;

use PVE::Storage::Plugin ();
use PVE::Storage::Sanbridge::Client ();
use PVE::Storage::Custom::SanbridgePlugin ();
my $class = 'PVE::Storage::Custom::SanbridgePlugin';

my ($yes, $no) = (JSON::PP::true, JSON::PP::false);
my $id = '0123456789abcdef' x 2;
my ($asked, @methods, @replies);
{
    no warnings 'redefine';
    *PVE::Storage::Sanbridge::Client::call = sub {
        $asked = {@_};
        push @methods, $asked->{method};
        my $reply = @replies ? shift @replies : {};
        return delete($asked->{answer})->($reply, $id);
    };
}

my $scfg = {
    type => 'sanbridge',
    shared => 1,
    content => { rootdir => 1, images => 1 },
    'sanbridge-array' => 'ontap',
    'sanbridge-address' => 'array.example:8443',
    'sanbridge-svm' => 42,
};
my $options = {
    'sanbridge-array' => 'ontap',
    'sanbridge-address' => 'array.example:8443',
    'sanbridge-svm' => '42',
    content => ['images', 'rootdir'],
    disable => \0,
};
my $vol = 'vm-100-disk-0';

# request(title, method, seconds, params): what was asked last
sub request {
    my ($title, $method, $wait, $params) = @_;
    is($asked->{method}, $method, "$title: method");
    is($asked->{wait}, $wait, "$title: wait");
    is_deeply($asked->{params} // {}, $params // {}, "$title: params");
    is_deeply($asked->{storage}, { id => 's1', options => $options }, "$title: storage");
}

sub refused {
    my ($title, $pattern, $code) = @_;
    undef $asked;
    ok(!eval { $code->(); 1 }, "$title: dies");
    like($@, $pattern, "$title: says so");
    like($@, qr/\A[ -~]+\n\z/, "$title: in one line");
}

subtest 'hooks' => sub {
    is($class->on_add_hook('s1', $scfg, 'sanbridge-password' => 'x'), undef, 'nothing to tell the API');
    request('add', 'storage.add', 30, { secrets => { 'sanbridge-password' => 'x' } });
    $class->on_add_hook('s1', $scfg);
    request('add without', 'storage.add', 30, { secrets => {} });
    refused('old host', qr/cannot keep the password/, sub {
        $class->on_add_hook('s1', { $scfg->%*, 'sanbridge-password' => 'hunter2' });
    });
    unlike($@, qr/hunter2/, 'without the password');
    is($asked, undef, 'nobody asked');

    my $changes = { 'sanbridge-address' => 'b', nodes => { n1 => 1 } };
    $class->on_update_hook_full('s1', $scfg, $changes, ['sanbridge-svm', 'nodes'], { 'sanbridge-password' => undef });
    request('update', 'storage.update', 40, {
        changes => { 'sanbridge-address' => 'b' },
        delete => ['sanbridge-svm'],
        secrets => { 'sanbridge-password' => undef },
    });
    $class->on_update_hook_full('s1', $scfg, {}, undef, {});
    request('update of nothing', 'storage.update', 40, { changes => {}, delete => [], secrets => {} });
    no warnings 'once';
    local *PVE::Storage::config = sub { return { ids => { s1 => $scfg } } };
    $class->on_update_hook('s1', $changes, 'sanbridge-password' => 'y');
    request('update, old host', 'storage.update', 40, {
        changes => { 'sanbridge-address' => 'b' },
        delete => undef,
        secrets => { 'sanbridge-password' => 'y' },
    });
    $class->on_delete_hook('s1', $scfg);
    request('remove', 'storage.remove', 10);
};

subtest 'options as sent' => sub {
    local $scfg->{'sanbridge-password'} = 'hunter2'; # as an old host would have it
    local $scfg->{nodes} = { n2 => 1, n1 => 1 };
    local $scfg->{disable} = 1;
    local $scfg->{path} = '/x';
    $class->activate_storage('s1', $scfg, {});
    is_deeply(
        $asked->{storage}->{options},
        { $options->%*, nodes => ['n1', 'n2'], disable => \1 },
        'ours, content, nodes, disable; no secret',
    );
};

subtest 'storage' => sub {
    @replies = { online => $yes };
    is($class->check_connection('s1', $scfg), 1, 'online');
    request('check', 'storage.check', 2);
    @replies = { online => $no, reason => 'no such array' };
    refused('offline', qr/\Ano such array\n/, sub { $class->check_connection('s1', $scfg) });
    @replies = { online => $no, reason => undef };
    refused('offline, no reason', qr/\Aoffline\n/, sub { $class->check_connection('s1', $scfg) });
    @replies = { online => 1 };
    refused('no boolean', qr/bad 'online'/, sub { $class->check_connection('s1', $scfg) });

    $class->activate_storage('s1', $scfg, {});
    request('activate', 'storage.activate', 12);

    @replies = { total => 10, available => 7, used => 3, active => $yes, age_seconds => 4 };
    is_deeply([$class->status('s1', $scfg, {})], [10, 7, 3, 1], 'status: total, avail, used, active');
    request('status', 'storage.status', 2);
    @replies = { total => 10, available => -7, used => 3, active => $yes };
    refused('status, nonsense', qr/bad 'available'/, sub { $class->status('s1', $scfg, {}) });

    @replies = { identity => 'ontap:serial:svm' };
    is($class->get_identity($scfg, 's1'), 'ontap:serial:svm', 'identity: scfg first');
    request('identity', 'storage.identity', 5);
};

subtest 'alloc_image' => sub {
    my @cases = (
        # KiB, name asked for, bytes
        [1024, undef, 1048576], [1024, '', 1048576], [528, undef, 540672], [4096, 'vm-100-cloudinit', 4194304],
        [976.5634765625, undef, 1000001], ['0.5', undef, 512], [17179869184, undef, 17592186044416],
        [512, 'vm-100-state-snap1', 524288], [512, 'vm-100-fleece-0', 524288],
    );
    for my $case (@cases) {
        my ($kib, $name, $bytes) = $case->@*;
        my $wanted = defined($name) && $name ne '' ? $name : undef;
        @replies = { name => $wanted // 'vm-100-disk-7', size_bytes => $bytes + 4096 };
        is($class->alloc_image('s1', $scfg, 100, 'raw', $name, $kib), $wanted // 'vm-100-disk-7', "$kib KiB");
        request("$kib KiB", 'volume.create', 120, { vmid => 100, name => $wanted, size_bytes => $bytes });
    }
    for my $name ('vm-101-disk-0', 'base-100-disk-0', "vm-100-disk-0\n", 'vm-100-../x', 'disk', 'vm-100-') {
        refused('bad name', qr/does not begin with|characters/, sub {
            $class->alloc_image('s1', $scfg, 100, 'raw', $name, 1024);
        });
        is($asked, undef, 'nobody asked');
    }
    refused('format', qr/'qcow2'/, sub { $class->alloc_image('s1', $scfg, 100, 'qcow2', undef, 1024) });
    for my $size (0, -1, 'x', '0.0001', '1e3', "1\n") {
        refused('size', qr/size/, sub { $class->alloc_image('s1', $scfg, 100, 'raw', undef, $size) });
    }
    for my $vmid (99, 'x', '100 ', 1000000000) {
        refused('owner', qr/VM id/, sub { $class->alloc_image('s1', $scfg, $vmid, 'raw', undef, 1024) });
    }
    @replies = { name => 'vm-100-disk-1', size_bytes => 1048576 };
    refused('other name', qr/another volume/, sub {
        $class->alloc_image('s1', $scfg, 100, 'raw', 'vm-100-disk-0', 1024);
    });
    @replies = { name => 'vm-101-disk-1', size_bytes => 1048576 };
    refused('other owner', qr/bad 'name'/, sub { $class->alloc_image('s1', $scfg, 100, 'raw', undef, 1024) });
    @replies = { name => 'vm-100-disk-1', size_bytes => 1048575 };
    refused('too small', qr/smaller/, sub { $class->alloc_image('s1', $scfg, 100, 'raw', undef, 1024) });
};

subtest 'templates and clones' => sub {
    my $base = 'base-100-disk-0';
    @replies = { name => $base };
    is($class->create_base('s1', $scfg, $vol), $base, 'a template');
    request('template', 'volume.template', 120, { name => $vol });
    @replies = { name => "$base/base-101-disk-0" };
    is($class->create_base('s1', $scfg, "$base/vm-101-disk-0"), "$base/base-101-disk-0", 'of a linked clone');
    refused('twice', qr/already/, sub { $class->create_base('s1', $scfg, $base) });
    @replies = { name => 'base-100-disk-1' };
    refused('another', qr/bad 'name'/, sub { $class->create_base('s1', $scfg, $vol) });

    @replies = { name => "$base/vm-101-disk-0", size_bytes => 1024 };
    is($class->clone_image($scfg, 's1', $base, 101), "$base/vm-101-disk-0", 'a linked clone');
    request('clone', 'volume.clone', 120, { name => $base, vmid => 101, snapshot => undef });
    @replies = { name => 'vm-101-disk-0', size_bytes => 1024 };
    is($class->clone_image($scfg, 's1', $vol, 101, 'snap1'), 'vm-101-disk-0', 'of a snapshot');
    request('of a snapshot', 'volume.clone', 120, { name => $vol, vmid => 101, snapshot => 'snap1' });
    for my $name ('vm-101-disk-0', "$base/vm-102-disk-0", 'base-101-disk-0/vm-101-disk-0', "$base/base-101-disk-0") {
        @replies = { name => $name, size_bytes => 1024 };
        refused($name, qr/bad 'name'/, sub { $class->clone_image($scfg, 's1', $base, 101) });
    }
    undef $asked;
    refused('no template', qr/no template/, sub { $class->clone_image($scfg, 's1', $vol, 101) });
    refused('owner', qr/VM id/, sub { $class->clone_image($scfg, 's1', $base, '1x') });
    is($asked, undef, 'nobody asked');

    @replies = { name => 'vm-101-disk-3' };
    is($class->rename_volume($scfg, 's1', $vol, 101), 's1:vm-101-disk-3', 'a volume id');
    request('rename', 'volume.rename', 120, { name => $vol, vmid => 101, target => undef });
    @replies = { name => 'vm-101-x' };
    is($class->rename_volume($scfg, 's1', $vol, 101, 'vm-101-x'), 's1:vm-101-x', 'with a name');
    request('with a name', 'volume.rename', 120, { name => $vol, vmid => 101, target => 'vm-101-x' });
    @replies = { name => "$base/vm-102-disk-0" };
    my $renamed = $class->rename_volume($scfg, 's1', "$base/vm-101-disk-0", 102);
    is($renamed, "s1:$base/vm-102-disk-0", 'a linked clone stays one');
    undef $asked;
    refused('target', qr/is none for a disk/, sub { $class->rename_volume($scfg, 's1', $vol, 101, 'vm-102-x') });
    is($asked, undef, 'nobody asked');
    @replies = { name => 'vm-102-disk-0' };
    refused('another guest', qr/bad 'name'/, sub { $class->rename_volume($scfg, 's1', $vol, 101) });
};

subtest 'free_image' => sub {
    @replies = { pending => $no };
    is($class->free_image('s1', $scfg, $vol, undef, 'raw'), undef, 'done');
    request('free', 'volume.delete', 120, { name => $vol });
};

subtest 'list_images' => sub {
    my @volumes = (
        { name => $vol, vmid => 100, size_bytes => 1024, used_bytes => 512, created => 1700000000 },
        { name => 'vm-101-cloudinit', vmid => 101, size_bytes => 2048, used_bytes => undef },
    );
    my @expected = (
        { volid => "s1:$vol", vmid => 100, format => 'raw', size => 1024, used => 512, ctime => 1700000000 },
        { volid => 's1:vm-101-cloudinit', vmid => 101, format => 'raw', size => 2048 },
    );
    @replies = { volumes => [@volumes] };
    is_deeply($class->list_images('s1', $scfg, undef, undef, {}), [@expected], 'all');
    request('all', 'volume.list', 25, { vmid => undef, names => undef });
    @replies = { volumes => [$volumes[0]] };
    is_deeply($class->list_images('s1', $scfg, '100'), [$expected[0]], 'of a guest');
    request('of a guest', 'volume.list', 25, { vmid => 100, names => undef });
    @replies = { volumes => [$volumes[0]] };
    $class->list_images('s1', $scfg, 101, ["s1:$vol", 's2:vm-100-disk-9', 's1:iso/x.iso', 's1x:vm-100-disk-8']);
    request('some', 'volume.list', 25, { vmid => undef, names => [$vol] });
    undef $asked;
    is_deeply($class->list_images('s1', $scfg, undef, ['s2:vm-100-disk-0']), [], 'none of ours');
    is($asked, undef, 'nobody asked');
    @replies = { volumes => [] };
    is_deeply($class->list_images('s1', $scfg), [], 'empty');
    for my $bad (
        { volumes => {} }, { volumes => ['x'] }, {}, { volumes => [{ $volumes[0]->%*, name => '../x' }] },
        { volumes => [{ $volumes[0]->%*, vmid => 101 }] }, { volumes => [{ $volumes[0]->%*, size_bytes => '1k' }] },
        { volumes => [{ $volumes[0]->%*, size_bytes => undef }] },
    ) {
        @replies = $bad;
        refused('nonsense', qr/bad|owner|no volume name/, sub { $class->list_images('s1', $scfg) });
    }
};

subtest 'list_volumes' => sub {
    my $volumes = { volumes => [map { { name => "vm-$_-disk-0", vmid => $_, size_bytes => 1 } } 100, 101, 102] };
    no warnings 'once';
    local *PVE::Cluster::get_vmlist = sub { return { ids => { 100 => { type => 'qemu' }, 101 => { type => 'lxc' } } } };
    my %cases = ('images' => [100, 102], 'rootdir' => [101], 'rootdir images' => [100, 101, 102]);
    for my $types (sort keys %cases) {
        @replies = $volumes;
        my $found = $class->list_volumes('s1', $scfg, undef, [split / /, $types]);
        is_deeply([map { $_->{vmid} } $found->@*], $cases{$types}, $types);
        is_deeply([grep { $_->{content} ne ($_->{vmid} == 101 ? 'rootdir' : 'images') } $found->@*], [], 'content is told');
        request($types, 'volume.list', 25, { vmid => undef, names => undef }); # a second one would find no reply
    }
    @replies = $volumes;
    $class->list_volumes('s1', $scfg, 100, ['images']);
    request('of a guest', 'volume.list', 25, { vmid => 100, names => undef });
    undef $asked;
    is_deeply($class->list_volumes('s1', $scfg, undef, ['iso', 'backup']), [], 'nothing we do not hold');
    is($asked, undef, 'nobody asked');
};

subtest 'attach and detach' => sub {
    my $path = "/dev/sanbridge/s1/$vol";
    @replies = { path => $path, size_bytes => 1024 };
    is($class->activate_volume('s1', $scfg, $vol, undef, {}, undef), 1, 'attach');
    request('attach', 'volume.attach', 90, { name => $vol, snapshot => undef, hints => {} });
    @replies = { path => "$path\@s1", size_bytes => 1024 };
    $class->activate_volume('s1', $scfg, $vol, 's1', {}, { 'guest-is-windows' => 1, 'plugin-may-deactivate-volume' => 0 });
    request('snapshot', 'volume.attach', 90, {
        name => $vol,
        snapshot => 's1',
        hints => { 'guest-is-windows' => '1', 'plugin-may-deactivate-volume' => '0' },
    });
    for my $other ("/dev/sanbridge/s1/vm-100-disk-1", '/dev/sdb', undef, '') {
        @replies = { path => $other, size_bytes => 1024 };
        refused('other device', qr/another path/, sub { $class->activate_volume('s1', $scfg, $vol, undef, {}) });
    }
    is($class->deactivate_volume('s1', $scfg, $vol), 1, 'detach');
    request('detach', 'volume.detach', 60, { name => $vol, snapshot => undef });
    $class->deactivate_volume('s1', $scfg, $vol, 's1', {});
    request('detach snapshot', 'volume.detach', 60, { name => $vol, snapshot => 's1' });
};

subtest 'size and growth' => sub {
    my $reply = { size_bytes => 1024, used_bytes => 512, created => 1700000000 };
    @replies = ($reply, $reply, { size_bytes => 1024, used_bytes => undef });
    is_deeply([$class->volume_size_info($scfg, 's1', $vol, 5)], [1024, 'raw', 512, undef, 1700000000], 'list context');
    request('size', 'volume.size', 10, { name => $vol });
    is(scalar($class->volume_size_info($scfg, 's1', $vol)), 1024, 'scalar context');
    is_deeply([$class->volume_size_info($scfg, 's1', $vol)], [1024, 'raw', undef, undef, undef], 'unknown use');

    @replies = { size_bytes => 2048 };
    $class->volume_resize($scfg, 's1', $vol, 2048, 4711);
    request('online', 'volume.grow', 60, { name => $vol, size_bytes => 2048, running => \1 });
    for my $running (0, undef) {
        @replies = { size_bytes => 4096 };
        $class->volume_resize($scfg, 's1', $vol, 2048, $running, undef);
        request('offline', 'volume.grow', 60, { name => $vol, size_bytes => 2048, running => \0 });
    }
    @replies = { size_bytes => 2047 };
    refused('too small', qr/smaller/, sub { $class->volume_resize($scfg, 's1', $vol, 2048, 0) });
    refused('of a snapshot', qr/snapshot/, sub { $class->volume_resize($scfg, 's1', $vol, 2048, 0, 's1') });
    refused('size', qr/size/, sub { $class->volume_resize($scfg, 's1', $vol, '+1G', 0) });
};

subtest 'snapshots' => sub {
    is($class->volume_snapshot($scfg, 's1', $vol, 'snap1'), undef, 'snapshot');
    request('snapshot', 'snapshot.create', 60, { name => $vol, snapshot => 'snap1' });
    $class->volume_snapshot_delete($scfg, 's1', $vol, 'snap1', 1);
    request('delete, running', 'snapshot.delete', 60, { name => $vol, snapshot => 'snap1', running => \1 });
    $class->volume_snapshot_delete($scfg, 's1', $vol, 'snap1');
    request('delete', 'snapshot.delete', 60, { name => $vol, snapshot => 'snap1', running => \0 });
    $class->volume_snapshot_rollback($scfg, 's1', $vol, 'snap1');
    request('rollback', 'snapshot.rollback', 120, { name => $vol, snapshot => 'snap1' });

    @replies = { possible => $yes, blockers => [] };
    is($class->volume_rollback_is_possible($scfg, 's1', $vol, 'snap1', undef), 1, 'possible');
    request('check', 'snapshot.check', 25, { name => $vol, snapshot => 'snap1' });
    my $blockers = ['before'];
    @replies = { possible => $no, blockers => ['snap2', 'snap3'], reason => 'newer snapshots' };
    refused('blocked', qr/\Anewer snapshots \(blocked by: snap2, snap3\)/, sub {
        $class->volume_rollback_is_possible($scfg, 's1', $vol, 'snap1', $blockers);
    });
    is_deeply($blockers, ['before', 'snap2', 'snap3'], 'blockers are pushed');
    @replies = { possible => $no, blockers => [], reason => undef };
    refused('no list', qr/cannot be rolled back/, sub { $class->volume_rollback_is_possible($scfg, 's1', $vol, 'snap1') });
    @replies = { blockers => [] };
    refused('no verdict', qr/bad 'possible'/, sub { $class->volume_rollback_is_possible($scfg, 's1', $vol, 'snap1') });

    @replies = { snapshots => { snap1 => { id => 'u-1', created => 5 }, vzdump => { id => 'u-2', created => 6 } } };
    is_deeply(
        $class->volume_snapshot_info($scfg, 's1', $vol),
        { snap1 => { id => 'u-1', timestamp => 5 }, vzdump => { id => 'u-2', timestamp => 6 } },
        'info',
    );
    request('info', 'snapshot.list', 25, { name => $vol });

    undef $asked;
    is($class->volume_snapshot_needs_fsfreeze, 1, 'needs fsfreeze');
    is($class->volume_qemu_snapshot_method('s1', $scfg, $vol), 'storage', 'QEMU leaves it to us');
    is($asked, undef, 'nobody asked');
};

subtest 'the snapshot of a backup that an earlier one has left' => sub {
    no warnings 'once';
    local *PVE::Cluster::get_vmlist = sub { return { ids => { 100 => { type => 'qemu' }, 101 => { type => 'lxc' } } } };
    my $of_container = 'vm-101-disk-0';
    for my $case ([$of_container, 'snap1'], [$vol, 'vzdump'], ['vm-102-disk-0', 'vzdump']) {
        $class->volume_snapshot($scfg, 's1', $case->@*);
        is_deeply($asked->{otherwise}, {}, "nothing is replaced: @$case");
    }
    $class->volume_snapshot($scfg, 's1', $of_container, 'vzdump');
    request('taken', 'snapshot.create', 60, { name => $of_container, snapshot => 'vzdump' });
    is_deeply([keys $asked->{otherwise}->%*], ['AlreadyExists'], 'what is done where there is one');
    @methods = ();
    $asked->{otherwise}->{AlreadyExists}->();
    is_deeply(\@methods, ['snapshot.delete', 'snapshot.create'], 'it is replaced');
    request('taken again', 'snapshot.create', 60, { name => $of_container, snapshot => 'vzdump' });
    is_deeply($asked->{otherwise}, {}, 'once');
};

subtest 'features' => sub {
    undef $asked;
    my ($base, $clone) = ('base-100-disk-0', 'base-100-disk-0/vm-101-disk-0');
    my %has = (
        'snapshot current' => 1, 'snapshot snap' => 1, 'copy base' => 1, 'copy current' => 1, 'copy snap' => 1,
        'sparseinit base' => 1, 'sparseinit current' => 1, 'clone base' => 1, 'template current' => 1,
        'rename current' => 1,
    );
    for my $feature (qw(snapshot clone copy template sparseinit rename replicate unheard-of)) {
        my %got = (
            current => $class->volume_has_feature($scfg, $feature, 's1', $vol, undef, 0, {}),
            base => $class->volume_has_feature($scfg, $feature, 's1', $base),
            snap => $class->volume_has_feature($scfg, $feature, 's1', $vol, 'snap1', 1),
        );
        is($got{$_}, $has{"$feature $_"}, "$feature of $_") for sort keys %got;
    }
    is($class->volume_has_feature($scfg, 'copy', 's1', $clone), 1, 'a clone is no base');
    is($class->storage_can_replicate($scfg, 's1', 'raw'), 0, 'no replication');
    is($class->get_volume_attribute($scfg, 's1', $vol, $_), undef, "no $_") for qw(notes protected);
    my %refusals = (
        rename_snapshot => [$scfg, 's1', $vol, 'a1', 'b1'],
        update_volume_attribute => [$scfg, 's1', $vol, 'notes', 'x'],
        prune_backups => [$scfg, 's1', {}],
    );
    for my $method (sort keys %refusals) {
        refused($method, qr/sanbridge/, sub { $class->$method($refusals{$method}->@*) });
    }
    is($asked, undef, 'nobody asked');
};

subtest 'no storage lock' => sub {
    for my $shared (1, 0) {
        my $sum = $class->cluster_lock_storage('s1', $shared, 10, sub { return $_[0] + $_[1] }, 2, 3);
        is($sum, 5, 'the work gets its parameters and its result comes back');
    }
    is(($class->cluster_lock_storage('s1', 1, undef, sub { return wantarray ? 'list' : 'one' }))[0], 'one', 'one value');
    eval { $class->cluster_lock_storage('s1', 1, undef, sub { die "no\n" }) };
    is($@, "no\n", 'an error comes through');
};

done_testing();
