-- IKE and ESP in TCP (RFC 9329) for Wireshark, which has no dissector of its own for it.
-- wireshark -X lua_script:docs/ike-in-tcp.lua capture.pcapng

local encapsulated = Proto("iketcp", "IKE and ESP in TCP (RFC 9329)")
local length_field = ProtoField.uint16("iketcp.length", "Length")
local prefix_field = ProtoField.string("iketcp.prefix", "Stream prefix")
encapsulated.fields = { length_field, prefix_field }

local isakmp, esp = Dissector.get("isakmp"), Dissector.get("esp")
local PREFIX, LENGTH, MARKER = "IKETCP", 2, 4

-- "IK" is no length that a first frame could have beside "ET": 18763 octets with SPI 45544350.
local function has_prefix(buffer, offset)
  return buffer:len() - offset >= #PREFIX and buffer(offset, #PREFIX):string() == PREFIX
end

local function message_length(buffer, _, offset)
  if has_prefix(buffer, offset) then return #PREFIX end
  return buffer(offset, LENGTH):uint()
end

local function dissect_message(buffer, info, tree)
  if has_prefix(buffer, 0) then
    tree:add(encapsulated, buffer()):add(prefix_field, buffer())
    return buffer:len()
  end
  tree:add(encapsulated, buffer(0, LENGTH)):add(length_field, buffer(0, LENGTH))
  local message = buffer(LENGTH)
  if message:len() > MARKER and message(0, MARKER):uint() == 0 then
    isakmp:call(message(MARKER):tvb(), info, tree)
  elseif message:len() > 1 then
    esp:call(message:tvb(), info, tree)
  end
  return buffer:len()
end

function encapsulated.dissector(buffer, info, tree)
  dissect_tcp_pdus(buffer, tree, LENGTH, message_length, dissect_message)
  return buffer:len()
end

DissectorTable.get("tcp.port"):add(4500, encapsulated)
