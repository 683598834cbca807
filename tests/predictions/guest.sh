#!/bin/busybox sh
# PID 1 of the guest: sends what the firmware measured, what the TPM holds and what QEMU offered to the host, each as
# a line "NAME LENGTH" with that many bytes behind it, and then ends the machine. "end" comes only if all went well.
set -e
b=/bin/busybox
trap '$b poweroff -f' EXIT
$b mount -t devtmpfs dev /dev
$b mount -t sysfs sys /sys
$b mount -t securityfs security /sys/kernel/security
$b insmod /qemu_fw_cfg.ko.xz
for port in /dev/vport*; do exec 3> "$port"; done

# Files of the kernel do not say how long they are.
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
# In a machine with the port of a GPU alone.
name=opt/ovmf/X-PciMmio64Mb
if $b test -e "by_name/$name/raw"; then send "$name" "by_name/$name/raw"; fi
send smbios /sys/firmware/dmi/tables/DMI
echo "end 0" >&3
