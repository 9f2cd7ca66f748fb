"""Operators whose n×n matrices have no form without."""

from __future__ import annotations

from dtn_core.operators import as_operator

SOFTMAX = as_operator(
    """softmax(q[n,d], k[n,d], v[n,e]) -> o[n,e]:
    z[i,j] = q[i,a] * k[j,a]
    s[i,j] = exp(z[i,j])
    r[i]   = s[i,j]                  where j <= i
    o[i,c] = s[i,j] * v[j,c] / r[i]  where j <= i"""
)
ELEMENTS = as_operator(
    """elements(q[n,d], k[n,d], v[n,e], g[n]) -> o[n,e], s, u[n]:
    z[i,j] = q[i,a] * k[j,a] * g[j]
    s      = z[i,j] * z[i,j] * z[j,i]
    u[i]   = z[j,i] * g[j] * s + g[i]
    o[i,c] = z[i,j] * z[i,j] * v[j,c] * u[i]"""
)
BOTH_WAYS = as_operator(
    """both_ways(q[n,d], k[n,d], v[n,e], w[n,e]) -> o[n,e], p[n,e], u[n]:
    z[i,j] = q[i,a] * k[j,a]
    s[i,j] = exp(z[i,j])
    o[i,c] = s[i,j] * v[j,c]           where j <= i
    p[j,c] = s[i,j] * w[i,c]           where j <= i
    u[i]   = o[i,c] * v[i,c]"""
)
BOTH_SIDES = as_operator(
    """both_sides(q[n,d], k[n,d], v[n,e], w[n,e]) -> o[n,e]:
    z[i,j] = q[i,a] * k[j,a]
    s[i,j] = exp(z[i,j])
    x[i,j] = s[i,j] * z[j,i]  where j <= i
    y[i,j] = s[i,j]           where i <= j
    o[i,c] = x[i,j] * v[j,c] + y[i,j] * w[j,c]"""
)
