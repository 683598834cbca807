#!/bin/busybox sh
# PID 1 of the guest: sends to the host the firmware's event log, the TPM's PCRs, the files of QEMU's fw_cfg device and the
# SMBIOS tables, then powers the machine off. Each item is a line "NAME LENGTH", followed by that many bytes. The last one,
# "end", is sent only if nothing failed.
set -e
b=/bin/busybox
trap '$b poweroff -f' EXIT
$b mount -t devtmpfs dev /dev
$b mount -t sysfs sys /sys
$b mount -t securityfs security /sys/kernel/security
$b insmod /qemu_fw_cfg.ko.xz
for port in /dev/vport*; do exec 3> "$port"; done

# send NAME FILE: sends a file. It is copied first, because files of the kernel do not state their length.
send() {
    $b cat "$2" > /file
    echo "$1 $($b stat -c %s /file)" >&3
    $b cat /file >&3
}

send log /sys/kernel/security/tpm0/binary_bios_measurements
for number in 0 1 2 3 4 5 6 7 8 9; do
    send "pcr/$number" "/sys/class/tpm/tpm0/pcr-sha384/$number"
done
cd /sys/firmware/qemu_fw_cfg
$b cat by_key/*/name > /names
send names /names
for name in etc/table-loader etc/acpi/rsdp etc/acpi/tables etc/tpm/log bootorder; do
    send "$name" "by_name/$name/raw"
done
# Exists only in a machine with a port for a GPU.
name=opt/ovmf/X-PciMmio64Mb
if $b test -e "by_name/$name/raw"; then send "$name" "by_name/$name/raw"; fi
send smbios /sys/firmware/dmi/tables/DMI
echo "end 0" >&3
