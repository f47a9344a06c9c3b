# Loading, API negotiation, schema, and the completeness of what overrides the base class.

use strict;
use warnings;

BEGIN {
    my ($dir) = __FILE__ =~ m{\A(.*?)[^/]*\z}s;
    unshift @INC, "${dir}lib", "${dir}..";
}

use Test::More;

use PVE::Storage::Plugin ();
my %before = %INC;
require PVE::Storage::Custom::SanbridgePlugin;
my $class = 'PVE::Storage::Custom::SanbridgePlugin';

subtest 'loads with core modules only' => sub {
    my %allowed = map { $_ => 1 } qw(
        strict.pm warnings.pm base.pm vars.pm Exporter.pm XSLoader.pm DynaLoader.pm constant.pm overload.pm
        overloading.pm warnings/register.pm PVE/Storage/Custom/SanbridgePlugin.pm
    );
    my @new = grep { !$before{$_} && !$allowed{$_} && $_ !~ m{\ATime/HiRes} } sort keys %INC;
    is_deeply(\@new, [], 'nothing else is loaded');
    ok(!$INC{'PVE/Storage/Sanbridge/Client.pm'}, 'the client not before the first request');
    ok($class->isa('PVE::Storage::Plugin'), 'derived from the base class');
};

subtest 'API version' => sub {
    is($class->api, 15, 'without a host: the newest tested');
    my $host;
    no warnings 'once';
    *PVE::Storage::APIVER = sub { $host };
    for ([9, 9], [10, 10], [11, 11], [12, 12], [13, 13], [14, 14], [15, 15], [16, 15], [27, 15]) {
        ($host, my $expected) = $_->@*;
        is($class->api, $expected, "host $host");
    }
};

subtest 'registration' => sub {
    is($class->type, 'sanbridge', 'type');
    is((grep { $_ eq 'sanbridge' } @PVE::Storage::Plugin::SHARED_STORAGE), 1, 'always shared, told once');
    my $data = $class->plugindata;
    is_deeply($data->{content}->[0], { images => 1, rootdir => 1, none => 1 }, 'content');
    is_deeply($data->{format}, [{ raw => 1 }, 'raw'], 'format');
    is_deeply($class->get_formats({}, 's1'), { default => 'raw', valid => { raw => 1 } }, 'get_formats');
    ok(!exists $data->{'isolate-properties'}, 'properties are not isolated');
};

subtest 'schema' => sub {
    my ($properties, $options) = ($class->properties, $class->options);
    my $secret = $class->plugindata->{'sensitive-properties'};
    for my $name (sort keys $properties->%*) {
        like($name, qr/\Asanbridge-[a-z][a-z-]*\z/, "$name is prefixed");
        like($properties->{$name}->{type}, qr/\A(?:string|integer|boolean)\z/, "$name has a plain type");
        my @members = grep { !m/\A(?:type|description)\z/ } keys $properties->{$name}->%*;
        is_deeply(\@members, [], "$name has no restriction an older package could fail on");
        ok($properties->{$name}->{description}, "$name is described");
        ok(exists $options->{$name}, "$name is an option");
    }
    my %base = map { $_ => 1 } qw(nodes disable content shared bwlimit);
    ok($properties->{$_} || $base{$_}, "option $_ is defined") for sort keys $options->%*;
    ok($properties->{$_}, "secret $_ is defined"), ok($options->{$_}->{optional}, "secret $_ is optional"),
        ok(!$options->{$_}->{fixed}, "secret $_ can be changed")
        for keys $secret->%*;
    ok($options->{$_}->{optional}, "$_ is optional") for keys %base;
};

subtest 'base class' => sub {
    # the table at the head of the plugin: inherited, and harmless
    my %inherited = map { $_ => 1 } qw(
        find_free_diskname map_volume unmap_volume deactivate_storage new_backup_provider
        get_volume_notes update_volume_notes
    );
    for my $method (@PVE::Storage::Plugin::METHODS) {
        my $own = $class->can($method) != PVE::Storage::Plugin->can($method);
        $inherited{$method} ? ok(!$own, "$method is inherited") : ok($own, "$method is overridden");
    }
};

done_testing();
