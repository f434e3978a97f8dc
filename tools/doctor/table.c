/* SPDX-License-Identifier: Apache-2.0 */
/* What `dormouse doctor` looks at, in the order of the report. */
#include "tools/doctor/doctor.h"

const struct check doctor_checks[] = {
    /* name, essential, is_kvm, function */
    {"kvm-device", true, true, check_kvm_device},
    {"kvm-speed", true, true, check_kvm_speed},
    {"kvm-caps", true, true, check_kvm_caps},
    {"kvm-paging", false, false, check_kvm_paging},
    {"io_uring", true, false, check_io_uring},
    {"memory", true, false, check_memory},
    {"disk", true, false, check_disk},
    {"reflink", false, false, check_reflink},
    {"userfaultfd", false, false, check_userfaultfd},
    {"pagemap-scan", false, false, check_pagemap_scan},
    {"huge-pages", false, false, check_huge_pages},
    {"landlock", false, false, check_landlock},
    {"seccomp", false, false, check_seccomp},
    {"namespaces", false, false, check_namespaces},
    {"cgroup2", false, false, check_cgroup},
    {"tun", false, false, check_tun},
    {"limits", false, false, check_limits},
};

const size_t doctor_num_checks = sizeof(doctor_checks) / sizeof(doctor_checks[0]);
