# Copyright the bisup authors
# SPDX-License-Identifier: Apache-2.0
"""How does PyTorch rotate by a Hadamard matrix? As transform/hadamard.hpp does: the same matrices
(Paley's over GF(q), times Walsh-Hadamard) and the same signs, so that both can be compared."""

import functools

import torch


def prime_power(q):
    """(p, k) with q = p^k, or None."""
    p = next((p for p in range(2, q + 1) if q % p == 0), None) if q > 1 else None
    k = 0
    while p and q % p == 0:
        q, k = q // p, k + 1
    return (p, k) if p and q == 1 else None


@functools.cache
def characters(q):
    """Of the elements 0 ... q - 1 of GF(q), digits to the base p: 1 for squares, -1 for others."""
    p, _ = prime_power(q)
    places = [p ** i for i in range(prime_power(q)[1])]

    def times_root(a, reduction):
        top, shifted = a // (q // p), a % (q // p) * p
        return sum((shifted // at % p + top * (reduction // at % p)) % p * at for at in places)

    for reduction in range(1, q):                 # until x with x^k = reduction runs through all
        found, element = [0] * q, 1
        for exponent in range(q - 1):
            if element == 0 or (exponent and element == 1):
                break
            found[element] = 1 if exponent % 2 == 0 else -1
            element = times_root(element, reduction)
        else:
            if element == 1:
                return found, lambda a, b: sum((a // at - b // at) % p * at for at in places)
    raise ValueError(f"no root in GF({q})")


def core(q, first):
    found, subtract = characters(q)
    c = torch.ones(q + 1, q + 1)
    c[0, 0] = 0
    c[1:, 0] = -1 if first else 1
    for i in range(q):
        for j in range(q):
            c[i + 1, j + 1] = found[subtract(i, j)]
    return c


@functools.cache
def factors(order):
    """(signs or None, butterflies): the smallest Paley matrix that divides, or None at all."""
    n = order & -order
    if n == order:
        return None, order
    k = order // n
    while order % k == 0 and k <= 1024:
        if k % 4 == 0 and prime_power(k - 1):
            return core(k - 1, True) + torch.eye(k), order // k
        if k % 4 == 0 and (k // 2 - 1) % 4 == 1 and prime_power(k // 2 - 1):
            h = torch.kron(core(k // 2 - 1, False), torch.tensor([[1., 1.], [1., -1.]])) + \
                torch.kron(torch.eye(k // 2), torch.tensor([[1., -1.], [-1., -1.]]))
            return h, order // k
        k *= 2
    return None


def random_bits(seed, count):
    """32 bits a number: Philox-4x32-10, as core/random.hpp."""
    mask, numbers = 0xffffffff, []
    for counter in range(-(-count // 4)):
        c, k = [counter, 0, 0, 0], [seed & mask, seed >> 32]
        for _ in range(10):
            a, b = 0xd2511f53 * c[0], 0xcd9e8d57 * c[2]
            c = [b >> 32 ^ c[1] ^ k[0], b & mask, a >> 32 ^ c[3] ^ k[1], a & mask]
            k = [(k[0] + 0x9e3779b9) & mask, (k[1] + 0xbb67ae85) & mask]
        numbers += c
    return numbers[:count]


def random_signs(seed, count):
    bits = random_bits(seed, -(-count // 32))
    return torch.tensor([-1. if bits[i // 32] >> i % 32 & 1 else 1. for i in range(count)])


class Rotation:
    """x -> (x D) H^T / sqrt(order) along [order, after], the last axis flattened; D = 1 without a
    seed. The identity where the order does not exist and `after` is given (heads), else blocks."""

    def __init__(self, order, after=1, seed=None):
        found = factors(order)
        if found is None:
            block = order & -order if after == 1 else 1
            found = None, block
        self.signs, self.butterflies = found
        self.order = self.butterflies * (1 if self.signs is None else len(self.signs))
        self.after = after
        self.diagonal = None if seed is None else random_signs(seed, order * after)

    def __call__(self, x):
        return self.hadamard(x if self.diagonal is None else x * self.diagonal.to(x), False)

    def inverse(self, x):
        x = self.hadamard(x, True)
        return x if self.diagonal is None else x * self.diagonal.to(x)

    def hadamard(self, x, inverse):
        shape, n = x.shape, self.butterflies
        if self.order == 1:
            return x
        x = x.reshape(-1, n, self.after)
        half = 1
        while half < n:
            pairs = x.reshape(-1, n // (2 * half), 2, half * self.after)
            a, b = pairs[:, :, 0], pairs[:, :, 1]
            x = torch.stack([a + b, a - b], 2)
            half *= 2
        if self.signs is not None:
            signs = (self.signs.T if inverse else self.signs).to(x)
            x = signs @ x.reshape(-1, len(signs), n * self.after)
        return x.reshape(shape) * self.order ** -0.5
