//! The Lua scripts: what must happen at once or not at all. Each touches the keys of one role, which share a slot.

use std::sync::LazyLock;

use redis::Script;

macro_rules! scripts {
    ($($(#[$doc:meta])* $name:ident = $code:expr;)+) => {$(
        $(#[$doc])*
        pub(super) static $name: LazyLock<Script> = LazyLock::new(|| Script::new($code));
    )+};
}

scripts! {
    /// An instance says how it is. KEYS: its announcement, the names of its role, its inbox. ARGV: its name, its number
    /// (0: it wants one), the announcement, the time to live in ms, the group.
    /// Gives its number, or 0 and the one of the process that has taken its name; then Redis' time (s, us).
    ANNOUNCE = r"
        local now = redis.call('TIME')
        local held = tonumber(redis.call('HGET', KEYS[1], 'number') or '0')
        local number = tonumber(ARGV[2])
        if number == 0 then
            number = math.max(held + 1, now[1] * 1000000 + now[2])
        elseif held > number then
            return {'0', string.format('%.0f', held), now[1], now[2]}
        end
        redis.call('HSET', KEYS[1], 'number', string.format('%.0f', number), 'announcement', ARGV[3])
        redis.call('HINCRBY', KEYS[1], 'beat', 1)
        redis.call('PEXPIRE', KEYS[1], ARGV[4])
        redis.call('SADD', KEYS[2], ARGV[1])
        redis.pcall('XGROUP', 'CREATE', KEYS[3], ARGV[5], '0', 'MKSTREAM')
        return {string.format('%.0f', number), '', now[1], now[2]}
    ";

    /// An instance takes its leave. KEYS as above; ARGV: its name, its number. Gives the entries it leaves unread and
    /// unanswered, unless another process has the name by now.
    LEAVE = r"
        local held = redis.call('HGET', KEYS[1], 'number')
        if held and tonumber(held) ~= tonumber(ARGV[2]) then return {} end
        local left = redis.call('XRANGE', KEYS[3], '-', '+')
        redis.call('DEL', KEYS[1], KEYS[3])
        redis.call('SREM', KEYS[2], ARGV[1])
        return left
    ";

    /// Reads a role's registry. KEYS: the names. ARGV: what the keys of announcements begin with.
    /// Gives name, number, beat and announcement of each; only the name of those whose key is gone.
    LIST = r"
        local all = {}
        for _, name in ipairs(redis.call('SMEMBERS', KEYS[1])) do
            local held = redis.pcall('HMGET', ARGV[1] .. name, 'number', 'beat', 'announcement')
            if held[1] and held[3] then
                all[#all + 1] = {name, held[1], held[2], held[3]}
            else
                all[#all + 1] = {name}
            end
        end
        return all
    ";

    /// Moves what a dead instance left unanswered to an heir: only what any instance of the service may answer; the rest
    /// goes. KEYS: the dead one's announcement, its inbox, the heir's inbox, the names. ARGV: its name, how many at most.
    /// Gives how many were moved and dropped; nothing happens if it lives.
    CLAIM = r"
        if redis.call('EXISTS', KEYS[1]) == 1 then return {0, 0} end
        local left = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', ARGV[2])
        local moved = 0
        for _, entry in ipairs(left) do
            local fields, mine, first = entry[2], false, false
            for i = 1, #fields, 2 do
                if fields[i] == 's' and fields[i + 1] == '1' then mine = true end
                if fields[i] == 'o' then first = true end
            end
            if mine and #fields <= 32 then
                if not first then
                    fields[#fields + 1] = 'o'
                    fields[#fields + 1] = entry[1]
                end
                redis.call('XADD', KEYS[3], '*', unpack(fields))
                moved = moved + 1
            end
            redis.call('XDEL', KEYS[2], entry[1])
        end
        if #left < tonumber(ARGV[2]) then
            redis.call('DEL', KEYS[2])
            redis.call('SREM', KEYS[4], ARGV[1])
        end
        return {moved, #left - moved}
    ";

    /// Forgets the consumers of processes that are gone and left nothing open. KEYS: the inbox. ARGV: the group, who stays.
    FORGET_CONSUMERS = r"
        for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
            if consumer[2] ~= ARGV[2] and consumer[4] == 0 then
                redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer[2])
            end
        end
        return 0
    ";

    /// Makes sure that a stream is there, empty or not. KEYS: it. ARGV: its time to live in ms.
    KEEP_STREAM = r"
        if redis.call('EXISTS', KEYS[1]) == 0 then
            redis.call('XDEL', KEYS[1], redis.call('XADD', KEYS[1], '*', 'x', ''))
        end
        return redis.call('PEXPIRE', KEYS[1], ARGV[1])
    ";

    /// The last id each stream has given. KEYS: the streams.
    LAST_IDS = r"
        local last = {}
        for i, key in ipairs(KEYS) do
            last[i] = '0-0'
            local info = redis.pcall('XINFO', 'STREAM', key)
            if not info.err then
                for j = 1, #info, 2 do
                    if info[j] == 'last-generated-id' then last[i] = info[j + 1] end
                end
            end
        end
        return last
    ";

    /// Takes a name that keeps snapshots. KEYS: the fences, its snapshots, its announcement. ARGV: its name, the time to
    /// live in ms, the lowest fence to give. Gives the fence and what was kept.
    ENTER = r"
        local now = redis.call('TIME')
        local last = tonumber(redis.call('HGET', KEYS[1], ' last') or '0')
        local fence = string.format('%.0f', math.max(last + 1, now[1] * 1000000 + now[2], tonumber(ARGV[3])))
        redis.call('HSET', KEYS[1], ' last', fence, ARGV[1], fence)
        redis.call('HINCRBY', KEYS[3], 'entered', 1)
        redis.call('PEXPIRE', KEYS[3], ARGV[2])
        return {fence, redis.call('HGETALL', KEYS[2])}
    ";

    /// Writes changes. KEYS: the fences, the snapshots. ARGV: the name, its fence, how many to set, keys and values of
    /// those, then the keys to forget. Gives `ok`, `fenced`, or `lost` if nothing is known of the name.
    WRITE = r"
        local held = redis.call('HGET', KEYS[1], ARGV[1])
        if not held then return 'lost' end
        if tonumber(held) > tonumber(ARGV[2]) then return 'fenced' end
        if tonumber(held) < tonumber(ARGV[2]) then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
        local at = 4
        for _ = 1, tonumber(ARGV[3]) do
            redis.call('HSET', KEYS[2], ARGV[at], ARGV[at + 1])
            at = at + 2
        end
        for i = at, #ARGV do redis.call('HDEL', KEYS[2], ARGV[i]) end
        return 'ok'
    ";

    /// Writes everything anew. KEYS as above. ARGV: the name, its fence, how many names it took over, each with the
    /// fence it was given then, and then keys and values. Gives `ok` or `fenced`.
    REWRITE = r"
        local fence = tonumber(ARGV[2])
        local held = redis.call('HGET', KEYS[1], ARGV[1])
        if held and tonumber(held) > fence then return 'fenced' end
        local last = math.max(fence, tonumber(redis.call('HGET', KEYS[1], ' last') or '0'))
        redis.call('HSET', KEYS[1], ' last', string.format('%.0f', last), ARGV[1], ARGV[2])
        local at = 4
        for _ = 1, tonumber(ARGV[3]) do
            local other = tonumber(redis.call('HGET', KEYS[1], ARGV[at]) or '0')
            if other < tonumber(ARGV[at + 1]) then redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 1]) end
            at = at + 2
        end
        redis.call('DEL', KEYS[2])
        for i = at, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
        return 'ok'
    ";

    /// Moves what a dead instance kept to an heir. KEYS: the fences, the dead one's snapshots, the heir's, the dead one's
    /// announcement. ARGV: the dead one's name, the heir's, the heir's fence. Gives a fence above all and what was kept;
    /// nothing if it lives, has nothing, or the heir is fenced itself.
    TAKE_OVER = r"
        if redis.call('EXISTS', KEYS[4]) == 1 then return false end
        local held = redis.call('HGET', KEYS[1], ARGV[2])
        if held and tonumber(held) > tonumber(ARGV[3]) then return false end
        local kept = redis.call('HGETALL', KEYS[2])
        if #kept == 0 then return false end
        local now = redis.call('TIME')
        local last = tonumber(redis.call('HGET', KEYS[1], ' last') or '0')
        local fence = math.max(last + 1, now[1] * 1000000 + now[2], tonumber(ARGV[3]) + 1)
        fence = string.format('%.0f', fence)
        redis.call('HSET', KEYS[1], ' last', fence, ARGV[1], fence)
        for i = 1, #kept, 2 do redis.call('HSET', KEYS[3], kept[i], kept[i + 1]) end
        redis.call('DEL', KEYS[2])
        return {fence, kept}
    ";

    /// Who kept something and does not live. KEYS: the fences. ARGV: the tag. Gives the names.
    ABANDONED = r"
        local names = {}
        for _, name in ipairs(redis.call('HKEYS', KEYS[1])) do
            local kept = redis.call('EXISTS', ARGV[1] .. ':kept:' .. name) == 1
            if kept and redis.call('EXISTS', ARGV[1] .. ':instance:' .. name) == 0 then names[#names + 1] = name end
        end
        return names
    ";
}
